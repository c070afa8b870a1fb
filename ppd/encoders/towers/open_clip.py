"""Picture features by open_clip's image towers, frozen. open_clip is imported when a tower is built, not before."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ...files import FLOATS, check_shapes, on_meta, read_tensors, write_tensors
from ...limits import line, parsed, whole
from ...messages import quoted, reason_of
from ...packages import needed_package
from .pixels import to_tensor

FORMAT = "ppd-clip-encoder"
VERSION = "1"
BATCH = 64
LARGEST_PICTURE, WIDEST, DEEPEST, MOST_PATCHES = 1024, 8192, 200, 64
"""Of a tower in a file: pixels a side of its pictures, its width and blocks, and patches a side."""
PREPROCESS = ("size", "mean", "std", "resize_mode", "interpolation", "normalize")
TextSide = Callable[[Sequence[str]], Tensor]


def import_open_clip() -> Any:
    """The package, which ComfyUI has only where this pack's requirements were installed."""
    return needed_package("open_clip", "open_clip_torch", "This taste encoder")


class OpenClipTower:
    """An image tower of open_clip and its preprocessing: pictures to features [n, f] in float32.

    `normalize` scales each feature vector to length 1, as CLIP's own similarity does. `text_side` turns texts into
    features [n, f] of the same space; None where only the image tower is at hand.
    """

    batch = BATCH

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
        text_side: TextSide | None = None,
    ) -> None:
        if resize_mode not in ("shortest", "squash"):
            raise ValueError(f"Expected resize_mode 'shortest' or 'squash' for encoder {name}, got {resize_mode!r}.")
        if interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"Expected interpolation 'bicubic' or 'bilinear' for {name}, got {interpolation!r}.")
        if len(mean) != 3 or len(std) != 3 or not all(abs(one) < 1e3 for one in (*mean, *std)) or not min(std) > 0:
            raise ValueError(f"Expected three means and three positive deviations for {name}, got {mean}, {std}.")
        self.visual = visual
        if visual.training:  # a host leaves its own in evaluation, and walking ViT-H-14 takes longer than the cache
            visual.eval().requires_grad_(False)
        self.name = name
        self.text_side = text_side
        self.normalize = normalize
        self.preprocess: dict[str, Any] = {
            "size": int(size),
            "mean": [float(value) for value in mean],
            "std": [float(value) for value in std],
            "resize_mode": resize_mode,
            "interpolation": interpolation,
            "normalize": normalize,
        }

    @classmethod
    def from_open_clip(
        cls,
        name: str,
        pretrained: str | None = None,
        *,
        normalize: bool = False,
        device: str | torch.device = "cpu",
    ) -> OpenClipTower:
        """Any open_clip model: a built-in `name` with `pretrained` = a tag (downloaded if need be) or a .safetensors
        file, or a name with open_clip's scheme 'local-dir:' or 'hf-hub:'.
        """
        open_clip = import_open_clip()
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

        def build() -> Any:
            with torch.random.fork_rng(devices=[]):  # it draws random weights; leave the caller's seed alone
                return open_clip.create_model(name, pretrained, device=device, require_pretrained=True)

        @torch.no_grad()
        def text_side(texts: Sequence[str]) -> Tensor:
            model, tokenizer = build().eval(), open_clip.get_tokenizer(name)  # anew: it is asked for once, if ever
            rows = [model.encode_text(tokenizer(texts[i : i + BATCH]).to(device)) for i in range(0, len(texts), BATCH)]
            return torch.cat(rows).float().cpu()

        model = build()
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
            text_side=text_side,
        )

    @classmethod
    def from_file(cls, path: Path | str, *, device: str | torch.device = "cpu") -> OpenClipTower:
        """An encoder file as `save_encoder` writes it: an open_clip model's tensors, of which `visual.*` are read, and
        metadata `open_clip_config`, `preprocess` (features have length 1 unless it says otherwise) and `name`.
        """
        import_open_clip()  # before anything is said of the file
        path = Path(path)
        tensors, metadata = read_tensors(
            path,
            None,
            VERSION,
            (),
            ("open_clip_config", "preprocess", "name"),
            "preference encoder",
            prefix="visual.",
            dtypes=FLOATS | {"I64"},  # batch norms count
        )
        try:
            name = line("name", metadata["name"])
            config, preprocess = (parsed(key, metadata[key]) for key in ("open_clip_config", "preprocess"))
            size = _checked_size(config, preprocess)
            planned = on_meta(path.name, lambda: _planned_tower(config, size))
            weights = {
                key.removeprefix("visual."): value.float() if value.is_floating_point() else value
                for key, value in tensors.items()
            }
            check_shapes(path.name, planned.state_dict(), weights)
            visual = _build_tower(config)
            visual.load_state_dict(weights)
            return cls(visual.to(device), name=name, **{"normalize": True, **preprocess})
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path.name}: its tensors and its configuration do not make an open_clip image tower "
                f"({reason_of(error)}): make or download the file again."
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

    def prepare(self, picture: Image.Image) -> Tensor:
        """A picture as [1, 3, size, size] in 0..1."""
        return self._fit(to_tensor(picture)[None])

    def features(self, prepared: Sequence[Tensor]) -> Tensor:
        """Features [n, f] of prepared pictures, on the CPU."""
        return self.image_tensor_features(torch.cat(list(prepared))) if prepared else torch.empty(0, self.dim)

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
) -> OpenClipTower:
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
    return OpenClipTower.from_file(path)


def _build_tower(config: Mapping[str, Any]) -> nn.Module:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(**{**config["vision_cfg"], "timm_model_pretrained": False})
    text = CLIPTextCfg(context_length=1, vocab_size=1, width=8, heads=1, layers=1)  # thrown away with the text side
    with torch.random.fork_rng(devices=[]):
        return CLIP(config["embed_dim"], vision, text, quick_gelu=config.get("quick_gelu", False)).visual


def _planned_tower(config: Mapping[str, Any], size: int) -> nn.Module:
    """The tower, once pictures of `size` went through it as it is to be used; on the meta device that costs nothing."""
    tower = _build_tower(config).eval()
    seen = tower(torch.zeros(1, 3, size, size))
    shape = list((seen[0] if isinstance(seen, tuple) else seen).shape)
    if len(shape) != 2:
        raise ValueError(f"expected features of shape [n, f], got {shape}")
    return tower


def _checked_size(config: Mapping[str, Any], preprocess: Mapping[str, Any]) -> int:
    """Pixels a side of a tower's pictures, where nothing that the file says of it is without bounds."""
    vision = config["vision_cfg"]
    size = whole("size", preprocess["size"], 1, LARGEST_PICTURE)
    if size != vision["image_size"]:
        raise ValueError(f"pictures of {size} for a tower of {quoted(vision['image_size'])}")
    if unknown := preprocess.keys() - set(PREPROCESS):
        raise ValueError(f"it knows nothing of {quoted(min(unknown))} in preprocess")
    layers = vision.get("layers", 12)
    for depth in layers if isinstance(layers, list) else [layers]:
        whole("layers", depth, 1, DEEPEST)
    whole("width", vision.get("width", 768), 1, WIDEST)
    whole("patch_size", vision.get("patch_size", 16), -(-size // MOST_PATCHES), size)
    if not re.fullmatch(r"\w[\w.]*", vision.get("timm_model_name") or "none"):  # a name of the hub would be fetched
        raise ValueError(f"expected the name of one of timm's models, got {quoted(vision['timm_model_name'])}")
    return size


def _is_safetensors(name: str) -> bool:
    return Path(name).suffix == ".safetensors" and Path(name).is_file()


def _public_name(name: str, pretrained: str | None) -> str:
    """The encoder's name for files that people share: never a path."""
    if ":" in name:
        scheme, rest = name.split(":", 1)
        return Path(rest).name if scheme == "local-dir" else rest
    weights = Path(pretrained).stem if pretrained and _is_safetensors(pretrained) else pretrained
    return f"{name}/{weights}"
