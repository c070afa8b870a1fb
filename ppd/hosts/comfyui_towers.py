"""Towers in ComfyUI: its vision models and its text encoders that see, and every kind by reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.clip_model
import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import folder_paths
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..encoders import towers
from ..encoders.fingerprint import fingerprint, hash_with
from ..encoders.towers import RememberedTower, needed, reading, same_tower
from ..encoders.towers.clip_vision import ClipVisionTower
from ..encoders.towers.pixels import to_bytes, within
from ..encoders.towers.vlm import INSTRUCTION, PIXELS, POOLING
from ..files import stamp

if TYPE_CHECKING:
    from ..encoders.features import Tower

ANY_TYPE = "stable_diffusion"
"""Load CLIP's first type: a text encoder that sees is known by its tensors, and this one adds nothing of a model's."""
GEMMA4 = "<|turn>user\n\n\n<|image><|image|><image|>\n\n{}<turn|>\n<|turn>model\n"
"""Gemma 4's turn, the words after the picture; ComfyUI's own has them before it, where they cannot see it."""
EYES = ("visual.", "model.visual.", "vision_model.", "vision_tower.")
"""How tensors of a text encoder's eyes are called in files that ComfyUI loads."""


def open_tower(
    reference: Mapping[str, Any],
    folder: Path | None = None,
    *,
    on_cpu: bool = False,
    download: bool = False,
    dim: int = 0,
) -> Tower:
    """The tower of a reference (encoders/towers), on the device that ComfyUI computes on and in its memory management.

    `on_cpu` is for a thread beside the queue: ComfyUI's memory management is left alone, and a vision-language model is
    a RememberedTower of width `dim`. ValueError where it cannot be opened, or is another than the reference's.
    """
    kind = reference.get("kind")
    if on_cpu and kind in ("text_encoder", "transformers"):
        name = Path(str(reference.get("file") or reference.get("directory"))).stem
        return RememberedTower(name, needed(reference, "hash"), dim)
    if kind == "clip_vision":
        name = needed(reference, "file")
        normalize = bool(reference.get("normalize", True))
        vision = load_clip_vision(name)
        return same_tower(clip_vision_tower(vision, Path(name).stem, normalize=normalize, on_cpu=on_cpu), reference)
    if kind == "text_encoder":
        name = needed(reference, "file")
        clip = load_text_encoder(name, reference.get("type", ANY_TYPE))
        return same_tower(TextEncoderTower(clip, name=Path(name).stem, **reading(reference)), reference)
    tower: Any = towers.open_tower(reference, folder, find=find_model, download=download)
    return tower if on_cpu else ManagedTower(tower, tower.vlm.model if kind == "transformers" else tower.visual)


def tower_choices() -> dict[str, dict[str, Any]]:
    """References without hash of all that lies in ComfyUI's model folders and can be a tower, by what lists show."""
    found: dict[str, dict[str, Any]] = {}
    for name in folder_paths.get_filename_list("clip_vision"):
        found[f"CLIP vision: {name}"] = {"kind": "clip_vision", "file": name}
    for name in _files("open_clip"):
        model = Path(name).parts[0] if len(Path(name).parts) > 1 else Path(name).stem
        found[f"open_clip: {name}"] = {"kind": "open_clip", "model": model, "file": name}
    for name in _folders("open_clip", "open_clip_config.json"):
        found[f"open_clip: {name}"] = {"kind": "open_clip", "directory": name}
    for name in folder_paths.get_filename_list("text_encoders"):
        path = folder_paths.get_full_path("text_encoders", name)
        if path is not None and Path(path).suffix == ".safetensors" and _sees(Path(path), stamp(Path(path))):
            found[f"text encoder: {name}"] = {"kind": "text_encoder", "file": name, "type": ANY_TYPE}
    for name in _folders("vlm", "preprocessor_config.json"):
        found[f"vision-language: {name}"] = {"kind": "transformers", "directory": name}
    return found


def find_model(kind: str, name: str) -> Path:
    """A file or folder of a model folder by its name in lists; open_clip's files may lie among CLIP_VISION's."""
    for folder in (kind, "clip_vision") if kind == "open_clip" else (kind,):
        for root in folder_paths.get_folder_paths(folder):
            path = Path(root, name)
            if path.exists() and folder_paths.is_within_directory(root, str(path)):
                return path
    raise ValueError(
        f"There is no {name} in models/{kind}, which the taste encoder looks at pictures with: put it there, or choose "
        "another taste encoder."
    )


class ManagedTower:
    """A tower of torch's own layers in ComfyUI's memory management: on its device whenever it looks."""

    def __init__(self, tower: Any, module: nn.Module) -> None:
        self.tower = tower
        self.name: str = tower.name
        self.batch: int = tower.batch
        self.patcher = comfy.model_patcher.ModelPatcher(  # not the dynamic one: these layers are not ComfyUI's
            nn.Sequential(module),  # it sets attributes such as `device`, which transformers' models let nobody set
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.text_encoder_offload_device(),
        )

    @property
    def weight_hash(self) -> str:
        """The tower's."""
        return self.tower.weight_hash

    @property
    def dim(self) -> int:
        """f, the width of one feature vector."""
        return self.tower.dim

    def prepare(self, picture: Image.Image) -> Tensor:
        """One picture as the tower takes it."""
        return self.tower.prepare(picture)

    def features(self, prepared: Sequence[Tensor]) -> Tensor:
        """Features [n, f], float32 on the CPU."""
        comfy.model_management.load_model_gpu(self.patcher)
        return self.tower.features(prepared)


def load_clip_vision(name: str) -> comfy.clip_vision.ClipVisionModel:
    """A vision model by its name in models/clip_vision."""
    path = folder_paths.get_full_path("clip_vision", name)
    vision = None if path is None else comfy.clip_vision.load(path)
    if vision is None:
        raise ValueError(
            f"There is no vision model {name} in models/clip_vision that ComfyUI reads: put the file there that the "
            "taste encoder was made with, or choose another taste encoder."
        )
    return vision


def clip_vision_tower(
    vision: comfy.clip_vision.ClipVisionModel,
    name: str = "CLIP vision",
    *,
    normalize: bool = True,
    on_cpu: bool = False,
) -> ClipVisionTower:
    """The tower of a CLIP_VISION.

    The model is called itself: `encode_image` gives DINOv3's states before the last layer, which has none. With
    `on_cpu` it moves there for good, out of ComfyUI's sight: give a model that nobody else has.
    """
    config = vision.config
    patches = {"patch_size": config.get("patch_size", 16), "num_patches": config.get("num_patches", 256)}
    plain: dict[str, Any] = {"size": vision.image_size, "mean": [0.0] * 3, "std": [1.0] * 3, "crop": True}
    if vision.model_type == "siglip2_vision_model":
        fit: Callable[[Tensor], Tensor] = partial(comfy.clip_model.siglip2_preprocess, **plain, **patches)
    else:
        fit = partial(comfy.clip_model.clip_preprocess, **plain)
    if on_cpu:
        vision.model.to("cpu")
    device = torch.device("cpu") if on_cpu else vision.load_device
    mean, std = (torch.tensor(x, device=device).view(3, 1, 1) for x in (vision.image_mean, vision.image_std))

    def look(pictures: Tensor) -> Tensor:
        if not on_cpu:
            comfy.model_management.load_model_gpu(vision.patcher)
        return vision.model(pixel_values=(pictures.to(device) - mean) / std)[2]

    preprocess = {"size": vision.image_size, "mean": list(vision.image_mean), "std": list(vision.image_std), **patches}
    settings: dict[str, Any] = {"model_type": vision.model_type, "preprocess": preprocess, "normalize": normalize}
    return ClipVisionTower(vision.model, look, fit, name=name, **settings)


def load_text_encoder(name: str, kind: str) -> comfy.sd.CLIP:
    """A text encoder by its name in models/text_encoders and Load CLIP's type."""
    if kind.upper() not in comfy.sd.CLIPType.__members__:
        raise ValueError(
            f"Load CLIP knows no type {kind!r}: make the taste encoder again in this ComfyUI, or update it."
        )
    path = folder_paths.get_full_path("text_encoders", name)
    if path is None:
        raise ValueError(
            f"There is no {name} in models/text_encoders, which the taste encoder looks at pictures with: put it "
            "there, or choose another taste encoder."
        )
    return comfy.sd.load_clip(
        [path], folder_paths.get_folder_paths("embeddings"), clip_type=comfy.sd.CLIPType[kind.upper()]
    )


def text_encoder_reference(clip: comfy.sd.CLIP) -> dict[str, Any]:
    """The reference, without hash, of a CLIP that Load CLIP made."""
    made: Any = clip.patcher.cached_patcher_init
    arguments = made[1] if made is not None and made[0] is comfy.sd.load_clip_model_patcher else ([],)
    paths = arguments[0]
    names = {
        folder_paths.get_full_path("text_encoders", name): name
        for name in folder_paths.get_filename_list("text_encoders")
    }
    if len(paths) != 1 or paths[0] not in names:
        raise ValueError(
            "The text encoder does not tell its file, and a taste encoder has to find it again: expected one from Load "
            "CLIP, of a single file in models/text_encoders."
        )
    return {"kind": "text_encoder", "file": names[paths[0]], "type": arguments[2].name.lower()}


class TextEncoderTower:
    """A picture as one of ComfyUI's text encoders that see has it: the mean of a middle layer's states at the words
    after it, as for transformers' models (encoders/towers/vlm.py); features [n, d].

    `layer` counts from 1, half of all where it is left out. The layer is set for each reading and put back, since a
    model family may read several layers at once.
    """

    batch = 1
    pooling = POOLING

    def __init__(
        self,
        clip: comfy.sd.CLIP,
        *,
        name: str = "text encoder",
        layer: int | None = None,
        instruction: str = INSTRUCTION,
        pixels: int = PIXELS,
    ) -> None:
        if clip.patcher.patches:
            raise ValueError(f"{name} has LoRAs on it, which change what it sees: connect it as Load CLIP gives it.")
        self.clip, self.name, self.instruction, self.pixels = clip, name, instruction, pixels
        self.key, _ = self._tokens(torch.zeros(3, 56, 56, dtype=torch.uint8))
        self.reader: Any = getattr(clip.cond_stage_model, self.key)
        self.layer = max(1, self.reader.num_layers // 2) if layer is None else layer
        if not 1 <= self.layer <= self.reader.num_layers:
            raise ValueError(f"{name} has layers 1 to {self.reader.num_layers}, got layer {layer}: choose one of them.")

    @cached_property
    def weight_hash(self) -> str:
        """sha256 that tells models (fingerprint.py), layers, what is said to them and picture sizes apart."""
        _, tokens = self._tokens(torch.zeros(3, 56, 56, dtype=torch.uint8))
        said = [token if isinstance(token, int) else "picture" for token in tokens]
        settings = {"layer": self.layer, "said": said, "pixels": self.pixels, "pooling": self.pooling}
        return hash_with(settings, fingerprint(self.clip.cond_stage_model))

    @property
    def dim(self) -> int:
        """d, the width of the model's states."""
        return int(self.reader.transformer.get_input_embeddings().weight.shape[1])

    def prepare(self, picture: Image.Image) -> Tensor:
        """One picture in bytes [3, h, w], of no more than `pixels`."""
        return to_bytes(within(picture, self.pixels))

    def features(self, prepared: Sequence[Tensor]) -> Tensor:
        """Features [n, d], float32 on the CPU, each picture read alone."""
        rows = [self._row(picture) for picture in prepared]
        return torch.stack(rows) if rows else torch.empty(0, self.dim)

    @torch.no_grad()
    def _row(self, picture: Tensor) -> Tensor:
        key, tokens = self._tokens(picture)
        self.clip.load_model({key: [[(token, 1.0) for token in tokens]]})
        device = self.clip.patcher.load_device
        with self._reading(device), comfy.model_management.cuda_device_context(device):
            states = self.reader([tokens])[0][0]
        words = self._words_after_picture(tokens)
        return states[len(states) - len(tokens) :][words].mean(0).float().cpu()

    @contextmanager
    def _reading(self, device: torch.device) -> Any:
        model = self.clip.cond_stage_model
        model.reset_clip_options()
        model.set_clip_options({"execution_device": device})
        self.reader.layer, self.reader.layer_idx = "hidden", self.layer - 1
        try:
            yield
        finally:
            model.reset_clip_options()

    def _tokens(self, picture: Tensor) -> tuple[str, list[Any]]:
        """The part of the model that sees, by name, and what it is given: tokens, and the picture in one's place."""
        image = picture.movedim(0, -1)[None].float() / 255
        words = GEMMA4.format(self.instruction) if hasattr(self.clip.tokenizer, "gemma4") else self.instruction
        # Some tokenizers take one picture, some a list, and leave the other unread
        found = self.clip.tokenize(words, image=image, images=[image], skip_template=False)
        for key, (tokens, *_) in found.items():
            said = [token[0] for token in tokens]
            if any(isinstance(token, dict) for token in said) and hasattr(self.clip.cond_stage_model, key):
                return key, said
        raise ValueError(
            f"{self.name} is a text encoder that reads no pictures: expected one that does, such as Qwen2.5-VL, "
            "Qwen3-VL, Qwen3.5 or Gemma."
        )

    def _words_after_picture(self, tokens: list[Any]) -> list[int]:
        """Places, among `tokens`, of the text after the picture, its template's marks left out."""
        texts = getattr(self.clip.tokenizer, self.key).inv_vocab
        last = max(place for place, token in enumerate(tokens) if isinstance(token, dict))
        return [
            place
            for place, token in enumerate(tokens)
            if place > last and not (texts[token].startswith("<") and texts[token].endswith(">"))
        ]


def _files(kind: str) -> list[str]:
    return [name for name in folder_paths.get_filename_list(kind) if not _in_folder_of_its_own(kind, name)]


def _in_folder_of_its_own(kind: str, name: str) -> bool:
    path = folder_paths.get_full_path(kind, name)
    return path is not None and (Path(path).parent / "open_clip_config.json").is_file()


def _folders(kind: str, mark: str) -> list[str]:
    """Names of folders up to two deep in a model folder that hold the file `mark`."""
    found = set()
    for root in folder_paths.get_folder_paths(kind):
        for path in (*Path(root).glob(f"*/{mark}"), *Path(root).glob(f"*/*/{mark}")):
            found.add(path.parent.relative_to(root).as_posix())
    return sorted(found)


@lru_cache(maxsize=256)
def _sees(path: Path, _stamp: tuple[int, int]) -> bool:
    """Whether a text encoder's file holds eyes, by the names of its tensors."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return any(name.startswith(EYES) for name in file.keys())  # noqa: SIM118 (no mapping, keys() only)
    except (SafetensorError, OSError):
        return False
