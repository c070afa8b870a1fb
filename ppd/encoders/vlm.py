"""The paper's own way (PPD, arXiv 2501.06655): a vision-language model reads a person's pairs and writes who they are.

The states of what it writes become the user embedding, the text is its explanation and stands in no file. Beside the
posterior (encoder.py) this tells no uncertainty, wants a generation per four pairs, and its strongest directions are
how long and how wordy the text is, so the states are centred and whitened on other people's before they are used.
`python -m benchmarks.vlm` measures both on the same pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..files import read_tensors, write_tensors
from ..pairs import PreferencePair
from ..pictures import SEEN_SIDE, PreferenceError
from ..user_embedding import UserEmbedding
from .fingerprint import hash_with
from .towers.pixels import within
from .towers.vlm import PIXELS, LocalVLM, Part

log = logging.getLogger(__name__)

FORMAT = "ppd-profile-whitening"
VERSION = "1"
PAIRS = 4
"""Pairs in one context, the paper's number."""
LARGEST = 1e12
"""Of its whitening's numbers: the states of some models have values of thousands in few directions and of nothing in
most."""
LONGEST = 512
"""Tokens that are written at most."""
BEFORE = "You will see pairs of pictures that one person compared. Of each pair they liked the first picture better.\n"
AFTER = (
    "\nFor each pair, say briefly how the picture they liked better differs from the other in medium, line, colour, "
    "light, texture, composition and mood. Then write what this person likes in a paragraph that begins with "
    "'User profile:'."
)


@dataclass(frozen=True, eq=False)
class ProfileWhitening:
    """(states - center) @ basis, fitted on many people's: center [f], basis [f, d]; `reader_hash` says whose states."""

    center: Tensor
    basis: Tensor
    reader_hash: str

    def save(self, path: Path | str) -> None:
        """Write it as safetensors (format "ppd-profile-whitening", version "1")."""
        tensors = {"center": self.center, "basis": self.basis}
        write_tensors(Path(path), FORMAT, VERSION, tensors, {"hash": self.reader_hash})

    @classmethod
    def load(cls, path: Path | str) -> ProfileWhitening:
        """Read one; a file that is none, or damaged, raises ValueError saying so."""
        path = Path(path)
        tensors, metadata = read_tensors(
            path, FORMAT, VERSION, ("center", "basis"), ("hash",), "profile whitening", largest=LARGEST
        )
        center, basis = tensors["center"].float(), tensors["basis"].float()
        if basis.ndim != 2 or center.shape != basis.shape[:1]:
            raise ValueError(
                f"{path.name} is damaged: expected a center [f] and basis [f, d], got {list(center.shape)} and "
                f"{list(basis.shape)}; make it again."
            )
        return cls(center, basis, metadata["hash"])


class ProfileEncoder:
    """Preference pairs to a user embedding [1, d] without covariance, and to the profile that explains it.

    `pairs` of them are read in one context; with more there are several readings, whose states are averaged. The states
    are those of `layer` (from 1; left out, the middle one) at each token written, their mean is the embedding.
    """

    def __init__(
        self,
        vlm: LocalVLM,
        *,
        layer: int | None = None,
        pairs: int = PAIRS,
        longest: int = LONGEST,
        pixels: int = PIXELS,
        whitening: ProfileWhitening | None = None,
    ) -> None:
        if min(pairs, longest) < 1:
            raise ValueError(f"Expected at least one pair in a context and one token written, got {pairs}, {longest}.")
        self.vlm, self.pairs, self.longest, self.pixels = vlm, pairs, longest, pixels
        self.layer = vlm.middle if layer is None else vlm.checked(layer)
        self.whitening = whitening
        if whitening is not None and whitening.reader_hash != self.reader_hash:
            raise ValueError(
                f"The whitening was fitted on profiles of another reader: expected {self.reader_hash[:12]}, got "
                f"{whitening.reader_hash[:12]}; fit one for {vlm.name} as it is asked here."
            )
        self._last: tuple[tuple[str, ...], list[Tensor], list[str]] | None = None

    @property
    def name(self) -> str:
        """The encoder's name, as user embeddings and adapters carry it."""
        return f"{self.vlm.name} profile"

    @cached_property
    def reader_hash(self) -> str:
        """sha256 of what gives the states their meaning: the model, what it is asked, and which states are taken."""
        asked = self.vlm.text([BEFORE, AFTER])
        settings = {"asked": asked, "layer": self.layer, "pairs": self.pairs, "longest": self.longest}
        return hash_with(
            {**settings, "pixels": self.pixels, "pooling": "mean of what is written"}, self.vlm.fingerprint
        )

    @cached_property
    def weight_hash(self) -> str:
        """sha256 of what gives u's coordinates their meaning: the reader and the whitening."""
        if self.whitening is None:
            return self.reader_hash
        values = [self.whitening.center.double().tolist(), self.whitening.basis.double().tolist()]
        return hash_with({"whitening": values}, self.reader_hash)

    @property
    def dim(self) -> int:
        """d, the width of the user embedding."""
        if self.whitening is not None:
            return self.whitening.basis.shape[1]
        return int(self.vlm.model.config.get_text_config().hidden_size)

    def encode(
        self,
        pairs: Sequence[PreferencePair],
        *,
        on_bad: str = "raise",
        skipped: list[PreferenceError] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> UserEmbedding:
        """The user embedding [1, d] behind `pairs`; without any, zeros: the population's middle, once whitened.

        Ties tell no preference and are passed over; a soft label weighs as the votes for it less those against. A
        picture that cannot be read raises PreferenceError naming its pair, or with `on_bad="skip"` is logged, put in
        `skipped`, and its pair left out. `progress(pictures done, of)` may raise to cancel.
        """
        kept, states, _ = self._read(pairs, on_bad, skipped, progress)
        u = torch.zeros(self.dim)
        if states:
            told = [[pair.weight * (2 * pair.outcome - 1) for pair in part] for part in self._parts(kept)]
            weights = torch.tensor([sum(part) for part in told])
            u = (weights / weights.sum()) @ torch.stack(states)
            if self.whitening is not None:
                u = (u - self.whitening.center) @ self.whitening.basis
        return UserEmbedding(
            u=u[None],
            encoder=self.name,
            encoder_hash=self.weight_hash,
            pairs=len(kept),
            created=date.today().isoformat(),
        )

    def profile(self, pairs: Sequence[PreferencePair], *, on_bad: str = "raise") -> str:
        """What the model writes of the person, a paragraph per reading; of the pairs read last it is known already."""
        return "\n\n".join(map(profile_in, self._read(pairs, on_bad, None, None)[2]))

    def _read(
        self,
        pairs: Sequence[PreferencePair],
        on_bad: str,
        skipped: list[PreferenceError] | None,
        progress: Callable[[int, int], None] | None,
    ) -> tuple[list[PreferencePair], list[Tensor], list[str]]:
        """The pairs that were read, and states [f] and text of each reading of them."""
        if on_bad not in ("raise", "skip"):
            raise ValueError(f"Expected on_bad 'raise' or 'skip', got {on_bad!r}.")
        kept = [pair for pair in pairs if not pair.tie and self._readable(pair, on_bad, skipped)]
        known = tuple(x for pair in kept for x in (pair.prompt, pair.chosen.digest, pair.rejected.digest))
        if self._last is None or self._last[0] != known:
            states, texts = [], []
            for part in self._parts(kept):
                found, text = self._write(part)
                states.append(found)
                texts.append(text)
                if progress is not None:
                    progress(min(2 * self.pairs * len(states), 2 * len(kept)), 2 * len(kept))
            self._last = (known, states, texts)
        return kept, self._last[1], self._last[2]

    def _readable(self, pair: PreferencePair, on_bad: str, skipped: list[PreferenceError] | None) -> bool:
        for role, picture in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            try:
                within(picture.open(SEEN_SIDE), self.pixels)
            except PreferenceError as error:
                bad = pair.error(role, error)
                if on_bad == "raise":
                    raise bad from error
                log.warning("Skipped: %s", bad)
                if skipped is not None:
                    skipped.append(bad)
                return False
        return True

    def _parts(self, pairs: Sequence[PreferencePair]) -> list[Sequence[PreferencePair]]:
        return [pairs[start : start + self.pairs] for start in range(0, len(pairs), self.pairs)]

    def question(self, pairs: Sequence[PreferencePair]) -> list[Part]:
        """What the model is shown and asked of `pairs`."""
        asked: list[Part] = [BEFORE]
        for number, pair in enumerate(pairs, 1):
            chosen, rejected = (
                within(picture.open(SEEN_SIDE), self.pixels) for picture in (pair.chosen, pair.rejected)
            )
            asked += [f"\nPair {number}, painted for: {pair.prompt}\nLiked better: ", chosen]
            asked += ["\nLiked less: ", rejected]
        return [*asked, AFTER]

    @torch.no_grad()
    def _write(self, pairs: Sequence[PreferencePair]) -> tuple[Tensor, str]:
        """The mean [f] of the layer's states from which each token was written, and the text."""
        inputs = self.vlm.inputs(self.question(pairs))
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        with self.vlm.watching(self.layer) as seen:
            out = self.vlm.model.generate(**inputs, **greedy, max_new_tokens=self.longest)
        written = out[0, inputs["input_ids"].shape[1] :]
        states = torch.cat([step[0, -1:] for step in seen]).float().mean(0).cpu()
        if not torch.isfinite(states).all():
            raise ValueError(f"The states of {self.vlm.name} are not finite: keep the model in bfloat16.")
        return states, self.vlm.processor.tokenizer.decode(written, skip_special_tokens=True).strip()


def profile_in(text: str) -> str:
    """The user profile that a reading ends with; where it was cut before, all there is."""
    place = text.casefold().rfind("user profile:")
    return text if place < 0 else text[place + len("user profile:") :].strip()
