"""What frozen towers see in pictures, remembered by picture content: a cache in memory and on disk before any tower."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..files import replacing
from ..pairs import PreferencePair
from ..pictures import SEEN_SIDE, Picture, PreferenceError
from .choices import numbered

if TYPE_CHECKING:
    from .towers.open_clip import TextSide

log = logging.getLogger(__name__)


class Tower(Protocol):
    """Frozen picture features. `name` is what people read, `batch` how many pictures it takes at once."""

    name: str
    batch: int

    @property
    def weight_hash(self) -> str:
        """Tells apart all that gives the features their meaning: weights, preprocessing, pooling."""

    @property
    def dim(self) -> int:
        """f, the width of one feature vector."""

    def prepare(self, picture: Image.Image) -> Tensor:
        """A picture of any size as the tower takes it; small, since a batch of them waits in memory."""

    def features(self, prepared: Sequence[Tensor]) -> Tensor:
        """Features [n, f] in float32 on the CPU of n prepared pictures."""


class PairFeatures(NamedTuple):
    """What is seen of n pairs: features [n, f] of chosen and rejected pictures, outcomes [n] (1 a pick, .5 a tie, a
    soft label between them), weights [n], the number of each one's choice [n] (`choices.numbered`), and which of the
    pairs given they are."""

    chosen: Tensor
    rejected: Tensor
    outcomes: Tensor
    weights: Tensor
    choices: Tensor
    kept: list[int]


class PictureFeatures:
    """Pictures to features [n, f] in float32 by a frozen `tower`.

    Features are remembered by content: in memory for the last `cache_size` pictures, and in the folder `cache_dir` for
    ever, if there is one.
    """

    def __init__(self, tower: Tower, *, cache_dir: Path | str | None = None, cache_size: int = 16384) -> None:
        self.tower = tower
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self._takes_files = True
        self.cache_size = cache_size
        self._memory: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def name(self) -> str:
        """The tower's name."""
        return self.tower.name

    @property
    def weight_hash(self) -> str:
        """The tower's hash."""
        return self.tower.weight_hash

    @property
    def dim(self) -> int:
        """f, the width of one feature vector."""
        return self.tower.dim

    def picture_features(
        self,
        pictures: Sequence[Picture],
        *,
        broken: dict[int, PreferenceError] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Features [n, f] of pictures by way of the cache: only content that was never seen is computed.

        A picture that cannot be decoded raises, or with `broken` leaves a row of zeros and its error there by index.
        `progress(done, total)` is called after each batch of new pictures; what it raises ends the work.
        """
        rows: list[Tensor | None] = [None] * len(pictures)
        waiting: OrderedDict[str, tuple[Tensor, list[int]]] = OrderedDict()
        done = 0

        def compute() -> None:
            nonlocal done
            if waiting:
                new = self.tower.features([tensor for tensor, _ in waiting.values()])
                for (digest, (_, indices)), row in zip(waiting.items(), new, strict=True):
                    row = row.clone()
                    if not bool(row.isfinite().all()):
                        error = PreferenceError(f"the tower {self.name} sees no numbers in the picture")
                        if broken is None:
                            raise error
                        broken.update(dict.fromkeys(indices, error))
                        continue
                    self._remember(digest, row)
                    path = pictures[indices[0]].path
                    if path is not None and not path.exists():  # erased meanwhile, and so is what was seen in it
                        self._forget(digest)
                    for index in indices:
                        rows[index] = row
                waiting.clear()
                if progress is not None:
                    progress(done, len(pictures))

        for index, picture in enumerate(pictures):
            done += 1
            try:
                digest = picture.digest
                if digest in waiting:
                    waiting[digest][1].append(index)
                    continue
                rows[index] = self._recall(digest)
                if rows[index] is None:
                    waiting[digest] = (self.tower.prepare(picture.open(SEEN_SIDE)), [index])
            except PreferenceError as error:
                if broken is None:
                    raise
                broken[index] = error
            if len(waiting) == self.tower.batch:
                compute()
        compute()
        if not rows:
            return torch.empty(0, self.dim)
        return torch.stack([torch.zeros(self.dim) if row is None else row for row in rows])

    def drop_memory(self) -> None:
        """Forget the features kept in memory; those in `cache_dir` stay."""
        self._memory.clear()

    def pair_features(
        self,
        pairs: Sequence[PreferencePair],
        *,
        on_bad: str = "raise",
        skipped: list[PreferenceError] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> PairFeatures:
        """Features of both pictures of each pair.

        A picture that cannot be read raises PreferenceError naming its pair, or with `on_bad="skip"` is logged, put in
        `skipped`, and its pair left out. `progress(pictures done, of)` may raise to cancel.
        """
        if on_bad not in ("raise", "skip"):
            raise ValueError(f"Expected on_bad 'raise' or 'skip', got {on_bad!r}.")
        broken: dict[int, PreferenceError] = {}
        pictures = [picture for pair in pairs for picture in (pair.chosen, pair.rejected)]
        features = self.picture_features(pictures, broken=broken, progress=progress)
        errors: dict[int, PreferenceError] = {}
        for index, error in sorted(broken.items()):
            errors.setdefault(index // 2, pairs[index // 2].error("rejected" if index % 2 else "chosen", error))
        for bad in errors.values():
            if on_bad == "raise":
                raise bad
            log.warning("Skipped: %s", bad)
        if skipped is not None:
            skipped.extend(errors.values())
        kept = [index for index in range(len(pairs)) if index not in errors]
        outcomes = torch.tensor([pairs[index].outcome for index in kept])
        weights = torch.tensor([pairs[index].weight for index in kept])
        choices = numbered([pairs[index].choice for index in kept])
        return PairFeatures(features[0::2][kept], features[1::2][kept], outcomes, weights, choices, kept)

    def _cache_file(self, digest: str) -> Path | None:
        if self.cache_dir is None:
            return None
        return self.cache_dir / self.weight_hash[:16] / digest[:2] / f"{digest}.npy"

    def _recall(self, digest: str) -> Tensor | None:
        row = self._memory.get(digest)
        if row is not None:
            self._memory.move_to_end(digest)
            return row
        file = self._cache_file(digest)
        if file is None or not file.is_file():
            return None
        try:
            row = torch.from_numpy(np.load(file, allow_pickle=False)).float()
        except (OSError, ValueError, EOFError, TypeError) as error:
            log.warning("Feature cache file %s is unreadable and is made again (%s)", file.name, error)
            return None
        if row.shape != (self.dim,) or not bool(row.isfinite().all()):
            return None
        self._keep(digest, row)
        return row

    def _remember(self, digest: str, row: Tensor) -> None:
        self._keep(digest, row)
        file = self._cache_file(digest)
        if file is None or not self._takes_files:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as temporary, temporary.open("wb") as stream:
                np.save(stream, row.numpy(), allow_pickle=False)
        except OSError as error:  # a full drive, or a folder that may not be written: what was seen is known here
            log.warning("Features are not kept in %s, and are computed again next time (%s)", self.cache_dir, error)
            self._takes_files = False

    def _forget(self, digest: str) -> None:
        self._memory.pop(digest, None)
        file = self._cache_file(digest)
        if file is not None:
            file.unlink(missing_ok=True)

    def _keep(self, digest: str, row: Tensor) -> None:
        self._memory[digest] = row
        while len(self._memory) > self.cache_size:
            self._memory.popitem(last=False)


def text_side_of(features: PictureFeatures) -> TextSide | None:
    """What turns texts into the space of the tower's features; None where it sees pictures alone."""
    return getattr(getattr(features.tower, "tower", features.tower), "text_side", None)
