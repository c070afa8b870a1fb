"""Picture features by open_clip's image towers, frozen, with a cache by picture content.

open_clip is imported when a model is built, not when this module is.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ..files import read_tensors, replacing, write_tensors
from ..pairs import PreferencePair
from ..pictures import Picture, PreferenceError

log = logging.getLogger(__name__)

FORMAT = "ppd-clip-encoder"
VERSION = "1"
BATCH = 64


class PairFeatures(NamedTuple):
    """What is seen of n pairs: features [n, f] of chosen and rejected pictures, outcomes [n] (1 a pick, .5 a tie),
    weights [n], and which of the pairs given they are."""

    chosen: Tensor
    rejected: Tensor
    outcomes: Tensor
    weights: Tensor
    kept: list[int]


class ClipFeatures:
    """A frozen image tower and its preprocessing: pictures to features [n, f] in float32.

    `normalize` scales each feature vector to length 1, as CLIP's own similarity does. Features of `Picture`s are
    remembered by content: in memory for the last `cache_size`, and in the folder `cache_dir` for ever, if there is one.
    """

    def __init__(
        self,
        visual: nn.Module,
        *,
        name: str,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        resize_mode: str = "shortest",
        interpolation: str = "bicubic",
        normalize: bool = False,
        cache_dir: Path | str | None = None,
        cache_size: int = 16384,
    ) -> None:
        if resize_mode not in ("shortest", "squash"):
            raise ValueError(f"Expected resize_mode 'shortest' or 'squash' for encoder {name}, got {resize_mode!r}.")
        if interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"Expected interpolation 'bicubic' or 'bilinear' for {name}, got {interpolation!r}.")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"Expected three means and three positive deviations for {name}, got {mean}, {std}.")
        self.visual = visual
        if visual.training:  # a host leaves its own in evaluation, and walking ViT-H-14 takes longer than the cache
            visual.eval().requires_grad_(False)
        self.name = name
        self.normalize = normalize
        self.preprocess: dict[str, Any] = {
            "size": int(size),
            "mean": [float(value) for value in mean],
            "std": [float(value) for value in std],
            "resize_mode": resize_mode,
            "interpolation": interpolation,
            "normalize": normalize,
        }
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.cache_size = cache_size
        self._memory: OrderedDict[str, Tensor] = OrderedDict()

    @classmethod
    def from_open_clip(
        cls,
        name: str,
        pretrained: str | None = None,
        *,
        normalize: bool = False,
        cache_dir: Path | str | None = None,
        device: str | torch.device = "cpu",
    ) -> ClipFeatures:
        """Any open_clip model: a built-in `name` with `pretrained` = a tag (downloaded if need be) or a .safetensors
        file, or a name with open_clip's scheme 'local-dir:' or 'hf-hub:'.
        """
        import open_clip

        scheme = name.split(":", 1)[0] if ":" in name else None
        if scheme is None:
            if name.replace("/", "-") not in open_clip.list_models():
                raise ValueError(f"open_clip has no model {name!r}: choose one of its names, or 'local-dir:<folder>'.")
            tags = open_clip.list_pretrained_tags_by_model(name)
            if pretrained is None:
                raise ValueError(
                    f"Encoder {name} needs weights, got none: give a .safetensors file or one of {', '.join(tags)}."
                )
            if not open_clip.is_pretrained_cfg(name, pretrained) and not _is_safetensors(pretrained):
                raise ValueError(
                    f"Expected a .safetensors file or one of {', '.join(tags) or 'no tags'} as weights of {name}, "
                    f"got {pretrained!r}."
                )
        with torch.random.fork_rng(devices=[]):  # building a tower draws random weights; leave the caller's seed alone
            model = open_clip.create_model(name, pretrained, device=device, require_pretrained=True)
        preprocess = open_clip.get_model_preprocess_cfg(model)
        size = preprocess["size"]
        return cls(
            model.visual,
            name=_public_name(name, pretrained),
            size=size if isinstance(size, int) else size[0],
            mean=preprocess["mean"],
            std=preprocess["std"],
            resize_mode=preprocess.get("resize_mode", "shortest"),
            interpolation=preprocess.get("interpolation", "bicubic"),
            normalize=normalize,
            cache_dir=cache_dir,
        )

    @classmethod
    def from_file(
        cls, path: Path | str, *, cache_dir: Path | str | None = None, device: str | torch.device = "cpu"
    ) -> ClipFeatures:
        """An encoder file as `save_encoder` writes it: an open_clip model's tensors, of which `visual.*` are read, and
        metadata `open_clip_config`, `preprocess` (features have length 1 unless it says otherwise) and `name`.
        """
        path = Path(path)
        tensors, metadata = read_tensors(
            path, None, VERSION, (), ("open_clip_config", "preprocess", "name"), "preference encoder"
        )
        try:
            config, preprocess = (json.loads(metadata[key]) for key in ("open_clip_config", "preprocess"))
            visual = _build_tower(config)
            weights = {
                key.removeprefix("visual."): value.float() if value.is_floating_point() else value
                for key, value in tensors.items()
                if key.startswith("visual.")
            }
            visual.load_state_dict(weights)
            preprocess = {"normalize": True, **preprocess}
            if preprocess["size"] != config["vision_cfg"]["image_size"]:
                raise ValueError(
                    f"pictures of {preprocess['size']} for a tower of {config['vision_cfg']['image_size']}"
                )
            return cls(visual.to(device), name=metadata["name"], cache_dir=cache_dir, **preprocess)
        except (TypeError, KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"{path.name}: its tensors and its configuration do not make an open_clip image tower ({reason}): "
                "make or download the file again."
            ) from error

    @property
    def device(self) -> torch.device:
        """Where the tower computes."""
        return next(self.visual.parameters()).device

    @cached_property
    def weight_hash(self) -> str:
        """sha256 of the tower's tensors at half precision and of the preprocessing.

        Half precision, so that a model and the fp16 file it was saved to have one hash.
        """
        total = hashlib.sha256(json.dumps(self.preprocess, sort_keys=True).encode())
        for name, tensor in sorted(self.visual.state_dict().items()):
            total.update(f"{name} {list(tensor.shape)}".encode())
            stored = tensor.half() if tensor.is_floating_point() else tensor.long()
            total.update(stored.cpu().contiguous().numpy().tobytes())
        return total.hexdigest()

    @cached_property
    def dim(self) -> int:
        """f, the width of one feature vector."""
        size = self.preprocess["size"]
        return self.image_tensor_features(torch.zeros(1, 3, size, size)).shape[1]

    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Features [n, f] of PIL pictures of any size, on the CPU, uncached."""
        parts = []
        for start in range(0, len(pictures), BATCH):
            batch = [self._fit(_to_tensor(picture)) for picture in pictures[start : start + BATCH]]
            parts.append(self.image_tensor_features(torch.cat(batch)).cpu())
        return torch.cat(parts) if parts else torch.empty(0, self.dim)

    @torch.no_grad()
    def image_tensor_features(self, x: Tensor, *, batch: int = BATCH) -> Tensor:
        """Features [n, f] of pictures x [n, 3, H, W] in 0..1, without gradients, on x's device."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"Expected pictures of shape [n, 3, H, W], got {list(x.shape)}.")
        mean, std = (torch.tensor(self.preprocess[key], device=self.device).view(3, 1, 1) for key in ("mean", "std"))
        parts = []
        for part in x.split(batch) if len(x) else ():
            output = self.visual((self._fit(part.to(self.device, torch.float32)) - mean) / std)
            pooled = output[0] if isinstance(output, tuple) else output
            parts.append((F.normalize(pooled, dim=-1) if self.normalize else pooled).to(x.device))
        return torch.cat(parts).float() if parts else torch.empty(0, self.dim, device=x.device)

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
                new = self.image_tensor_features(torch.cat([tensor for tensor, _ in waiting.values()]))
                for (digest, (_, indices)), row in zip(waiting.items(), new, strict=True):
                    row = row.clone()
                    self._remember(digest, row)
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
                    waiting[digest] = (self._fit(_to_tensor(picture.open())), [index])
            except PreferenceError as error:
                if broken is None:
                    raise
                broken[index] = error
            if len(waiting) == BATCH:
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
        outcomes = torch.tensor([0.5 if pairs[index].tie else 1.0 for index in kept])
        weights = torch.tensor([pairs[index].weight for index in kept])
        return PairFeatures(features[0::2][kept], features[1::2][kept], outcomes, weights, kept)

    def _fit(self, x: Tensor) -> Tensor:
        """x [n, 3, H, W] resized to the tower's square: shorter side fitted and the middle kept, or squashed."""
        size = self.preprocess["size"]
        height, width = x.shape[-2:]
        if (height, width) == (size, size):
            return x
        scale = size / min(height, width)
        squash = self.preprocess["resize_mode"] == "squash"
        shape = (size, size) if squash else (max(size, round(height * scale)), max(size, round(width * scale)))
        x = F.interpolate(x, shape, mode=self.preprocess["interpolation"], antialias=True).clamp(0, 1)
        top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
        return x[..., top : top + size, left : left + size]

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
        if row.shape != (self.dim,):
            return None
        self._keep(digest, row)
        return row

    def _remember(self, digest: str, row: Tensor) -> None:
        self._keep(digest, row)
        file = self._cache_file(digest)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as temporary, temporary.open("wb") as stream:
                np.save(stream, row.numpy(), allow_pickle=False)

    def _keep(self, digest: str, row: Tensor) -> None:
        self._memory[digest] = row
        while len(self._memory) > self.cache_size:
            self._memory.popitem(last=False)


def save_encoder(
    path: Path | str,
    visual: nn.Module,
    config: Mapping[str, Any],
    *,
    name: str,
    mean: Sequence[float],
    std: Sequence[float],
    normalize: bool = True,
    dtype: torch.dtype = torch.float16,
) -> ClipFeatures:
    """Write an image tower as a preference encoder file and return it as read back.

    `visual` is an open_clip model's `.visual`; the text tower is not needed for encoding and is left out.
    `config` has open_clip's `embed_dim` and `vision_cfg` (as keyword arguments), and `quick_gelu` where it is set.
    """
    kept = {key: config[key] for key in ("embed_dim", "vision_cfg", "quick_gelu") if key in config}
    size = config["vision_cfg"]["image_size"]
    preprocess = {"size": size, "mean": list(mean), "std": list(std), "normalize": normalize}
    tensors = {
        f"visual.{key}": value.to(dtype) if value.is_floating_point() else value
        for key, value in visual.state_dict().items()
    }
    metadata = {"open_clip_config": json.dumps(kept), "preprocess": json.dumps(preprocess), "name": name}
    write_tensors(Path(path), FORMAT, VERSION, tensors, metadata)
    return ClipFeatures.from_file(path)


def _build_tower(config: Mapping[str, Any]) -> nn.Module:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(**{**config["vision_cfg"], "timm_model_pretrained": False})
    text = CLIPTextCfg(context_length=1, vocab_size=1, width=8, heads=1, layers=1)  # thrown away with the text side
    with torch.random.fork_rng(devices=[]):
        return CLIP(config["embed_dim"], vision, text, quick_gelu=config.get("quick_gelu", False)).visual


def _to_tensor(picture: Image.Image) -> Tensor:
    """A PIL picture as [1, 3, H, W] in 0..1."""
    array = np.array(picture.convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0).float().div(255)


def _is_safetensors(name: str) -> bool:
    return Path(name).suffix == ".safetensors" and Path(name).is_file()


def _public_name(name: str, pretrained: str | None) -> str:
    """The encoder's name for files that people share: never a path."""
    if ":" in name:
        scheme, rest = name.split(":", 1)
        return Path(rest).name if scheme == "local-dir" else rest
    weights = Path(pretrained).stem if pretrained and _is_safetensors(pretrained) else pretrained
    return f"{name}/{weights}"
