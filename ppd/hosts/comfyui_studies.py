"""Painting studies in ComfyUI: which model it is, and one picture at a time by the stock sampler."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from ..encoders.fingerprint import SPREAD, some_values

OnStep = Callable[[int, Tensor], None]
"""Called with the number of steps done, and the picture's latent as the model now foresees it."""
EMPTY_RATIO = 8
"""Pixels for each number of an empty latent, before it is fitted to the model."""
_TENSORS = 64
"""How many weights the fingerprint looks at, and how many numbers in each."""


@dataclass(frozen=True)
class Sampling:
    """How every picture of a set is painted; sizes in pixels."""

    width: int
    height: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    negative: str = ""

    def as_json(self) -> dict[str, Any]:
        """What the set remembers."""
        return asdict(self)


def model_signature(model: ModelPatcher) -> dict[str, str]:
    """What tells a MODEL from others: class, configuration, and a fingerprint of some of its weights and patches.

    Quick, and the same wherever the weights lie and whatever is loaded; a LoRA or another strength of it makes another
    model, as do weights in another precision.
    """
    settings = model.model.model_config
    plain = {name: value for name, value in settings.unet_config.items() if name != "dtype"}
    config = json.dumps(plain, sort_keys=True, default=lambda value: type(value).__name__)
    return {
        "class": type(settings).__name__,
        "denoiser": type(model.model.diffusion_model).__name__,
        "config": hashlib.sha256(config.encode()).hexdigest()[:16],
        "weights": _fingerprint(model),
    }


def _fingerprint(model: ModelPatcher) -> str:
    total = hashlib.sha256()
    weights = model.model_state_dict("diffusion_model.")
    total.update(json.dumps({name: list(tensor.shape) for name, tensor in sorted(weights.items())}).encode())
    for name in _spread(sorted(name for name, tensor in weights.items() if tensor.numel() >= SPREAD)):
        # While a patched model is loaded, its own weights are in the backup
        tensor = model.backup[name].weight if name in model.backup else weights[name]
        total.update(_some_values(tensor))
    total.update(json.dumps(sorted(model.patches)).encode())
    for name in _spread(sorted(model.patches)):
        for strength, patch, strength_model, *_ in model.patches[name]:
            total.update(json.dumps([strength, strength_model]).encode())
            for tensor in _tensors(patch):
                total.update(_some_values(tensor))
    return total.hexdigest()[:16]


def _spread(names: list[str]) -> list[str]:
    return names[:: max(1, len(names) // _TENSORS)]


def _some_values(tensor: Tensor) -> bytes:
    return some_values(tensor).to("cpu", torch.float32).numpy().tobytes()


def _tensors(patch: Any) -> Iterator[Tensor]:
    """The tensors of a weight patch, which are nested in tuples or in an adapter."""
    if isinstance(patch, WeightAdapterBase):
        patch = patch.weights
    if isinstance(patch, Tensor):
        yield patch
    elif isinstance(patch, (tuple, list)):
        for part in patch:
            yield from _tensors(part)


class Painter:
    """Paints prompts with a model, one at a time, as KSampler and VAE Decode do."""

    def __init__(self, model: ModelPatcher, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, sampling: Sampling) -> None:
        self.model, self.clip, self.vae, self.sampling = model, clip, vae, sampling
        self._read: dict[str, Any] = {}
        if model.get_model_object("latent_format").latent_dimensions not in (2, 3):  # 3 with a single frame
            raise ValueError(
                f"The MODEL is {type(model.model.model_config).__name__}, which paints no pictures: load a model that "
                "does."
            )
        places = (sampling.height // EMPTY_RATIO, sampling.width // EMPTY_RATIO)
        device = comfy.model_management.intermediate_device()
        empty = torch.zeros([1, 4, *places], device=device)
        self.empty = comfy.sample.fix_empty_latent_channels(model, empty, EMPTY_RATIO)
        """The latent [1, C, ...] that painting starts from."""

    def of(self, model: ModelPatcher) -> Painter:
        """One that paints with another model of the family, and knows the texts that this one has read."""
        painter = copy.copy(self)
        painter.model = model
        return painter

    def read(self, texts: Iterable[str]) -> None:
        """Encode texts that will be painted next, while the text encoder is loaded; forget the others."""
        wanted = dict.fromkeys(texts)
        self._read = {text: self._read[text] if text in self._read else self._encoded(text) for text in wanted}

    def paint(self, text: str, negative: str, seed: int, on_step: OnStep) -> tuple[Tensor, Tensor, Tensor]:
        """A picture [H, W, 3] in 0..1, its latent [1, C, ...] as the VAE decodes it, and the noise it came from.

        ValueError where it is a video, or no numbers.
        """
        sampling, noise = self.sampling, comfy.sample.prepare_noise(self.empty, seed)

        def callback(step: int, foreseen: Tensor, _x: Tensor, _steps: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            on_step(step + 1, foreseen)

        latent = comfy.sample.sample(
            self.model,
            noise,
            sampling.steps,
            sampling.cfg,
            sampling.sampler_name,
            sampling.scheduler,
            self._conditioning(text),
            self._conditioning(negative),
            self.empty,
            callback=callback,
            disable_pbar=True,
            seed=seed,
        )
        pictures = self.vae.decode(latent)
        if pictures.ndim not in (4, 5) or pictures.shape[:-3].numel() != 1:  # 5: a video of one frame
            raise ValueError(
                f"The VAE made {list(pictures.shape)} of one latent, expected one picture: studies need a model that "
                "paints single pictures, and its VAE."
            )
        pictures = pictures.reshape(1, *pictures.shape[-3:])
        if not torch.isfinite(pictures).all() or not torch.isfinite(latent).all():
            raise ValueError(
                f"The picture of {text!r} from the seed {seed} is no numbers: load the VAE or the model in another "
                "precision. What is painted so far is kept."
            )
        return pictures[0, ..., :3], latent, noise

    def _conditioning(self, text: str) -> Any:
        if text not in self._read:
            self._read[text] = self._encoded(text)
        return self._read[text]

    def _encoded(self, text: str) -> Any:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))
