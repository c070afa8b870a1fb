"""A denoiser of diffusers with its scheduler, to train user adapters for (denoiser.Denoiser).

t is what the class is told: timesteps, Stage C's ratio, or sigma (Z-Image: 1 - sigma). x0 is a picture's latent
[C, H, W] as the VAE decodes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakSet

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from ..adapters import UserAdapter
from .checkpointing import Resume, checkpointed
from .denoiser import KeepTexts, in_memory, numbered
from .diffusers import DiffusersHost
from .diffusers_denoisers import Schedule, class_of, schedule_of

FLUX_GUIDANCE = 3.5
"""What ComfyUI tells Flux where no node tells another."""
Context = dict[str, Tensor]
Reader = Callable[[Sequence[str]], Context]
"""Prompts to arguments of the denoiser's forward, by their names, a row each."""


@dataclass(frozen=True)
class DiffusersTexts:
    """What prompts are to the denoiser, kept on the CPU or on disk: `states[places[i]]` for prompt i, a row of each
    argument."""

    states: Sequence[Context]
    places: np.ndarray
    device: torch.device

    def __getitem__(self, rows: np.ndarray) -> Context:
        found = [self.states[place] for place in self.places[rows]]
        return {name: torch.stack([state[name] for state in found]).to(self.device) for name in found[0]}


class DiffusersDenoiser:
    """UNet2DConditionModel (noise, v), StableCascadeUNet, and the transformers of Flux, Qwen-Image and Z-Image.

    `read` is asked for some prompts at a time, and gives states of one length for all; `keep` is where they stay. The
    denoiser sees (x0 - shift) * scale, the VAE's numbers. `timestep_at` is as in DiffusersHost. With `checkpointing` a
    step takes about a third longer and keeps the inputs of the blocks alone.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        scheduler: Any,
        read: Reader,
        *,
        scale: float | Tensor = 1.0,
        shift: float | Tensor = 0.0,
        timestep_at: Schedule | None = None,
        checkpointing: bool = False,
        keep: KeepTexts = in_memory,
    ) -> None:
        self.denoiser, self.scheduler, self.read = denoiser.requires_grad_(False).eval(), scheduler, read
        self.scale, self.shift = scale, shift
        self.timestep_at = timestep_at or schedule_of(denoiser)
        self.name = class_of(denoiser)
        self.is_flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
        self.checkpointing, self.keep = checkpointing, keep
        self.hosts: WeakSet[DiffusersHost] = WeakSet()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.denoiser.parameters()).device

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> DiffusersTexts:
        """Reads each prompt once."""
        unique, places = numbered(prompts)
        return DiffusersTexts(self.keep(unique, self._states), places, self.device)

    def _states(self, prompts: Sequence[str]) -> list[Context]:
        dtype = next(self.denoiser.parameters()).dtype  # to which `predict` would bring them
        read = {
            name: state.to("cpu", dtype if state.is_floating_point() else None)
            for name, state in self.read(prompts).items()
        }
        return [{name: state[row] for name, state in read.items()} for row in range(len(prompts))]

    def draw_timesteps(self, rng: np.random.Generator, count: int, end_percent: float) -> Tensor:
        """t [count], even over what ComfyUI counts as the part of the schedule from 0 to `end_percent`."""
        t = torch.tensor([self.timestep_at(percent) for percent in rng.uniform(0, end_percent, count)])
        return t.round().long() if self.name == "UNet2DConditionModel" else t.float()

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Latents under noise, as the denoiser sees them."""
        x0 = self._seen(x0)
        if self.is_flow:
            return torch.lerp(x0, noise, self._sigma(t).view(-1, 1, 1, 1).to(x0))
        return cast(Tensor, self.scheduler.add_noise(x0, noise, t))

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The denoiser's output that would denoise them: noise, v, noise - x0, or x0."""
        x0 = self._seen(x0)
        if self.is_flow:
            return noise - x0
        kind = self.scheduler.config.get("prediction_type", "epsilon")
        if kind == "v_prediction":
            return cast(Tensor, self.scheduler.get_velocity(x0, noise, t))
        return x0 if kind == "sample" else noise

    def predict(self, x: Tensor, t: Tensor, context: Context) -> Tensor:
        """The denoiser's output for latents x [n, C, H, W]; a flow's is noise - x0, whichever way the class counts."""
        weight = next(self.denoiser.parameters())
        given = {name: x.to(weight.dtype) if x.is_floating_point() else x for name, x in context.items()}
        return _CALLS[self.name](self.denoiser, x.to(weight.dtype), t, given)

    def host(self, adapter: UserAdapter) -> DiffusersHost:
        """The denoiser, to be personalised on its own noise schedule."""
        host = DiffusersHost(self.denoiser, adapter, self.timestep_at)
        self.hosts.add(host)
        return host

    def plain_attention(self) -> AbstractContextManager[None]:
        """diffusers' attention has gradients as it is."""
        return checkpointed(self.denoiser, self._resume) if self.checkpointing else nullcontext()

    def _resume(self) -> Resume:
        effect = next((host.effect for host in self.hosts if host.effect is not None), None)
        return lambda block: nullcontext() if effect is None else effect.installed(block)

    def _seen(self, x0: Tensor) -> Tensor:
        return (x0 - self.shift) * self.scale

    def _sigma(self, t: Tensor) -> Tensor:
        return 1 - t if self.name == "ZImageTransformer2DModel" else t


def _unet(unet: Any, x: Tensor, t: Tensor, context: Context) -> Tensor:
    """SDXL's `text_embeds` and `time_ids` go with the others."""
    added = {name: context[name] for name in ("text_embeds", "time_ids") if name in context}
    return cast(Tensor, unet(x, t, context["encoder_hidden_states"], added_cond_kwargs=added or None).sample)


def _stage_c(unet: Any, x: Tensor, t: Tensor, context: Context) -> Tensor:
    """`clip_text`, `clip_text_pooled`; without a `clip_img` of its own it is told zeros, as both libraries do."""
    nothing = x.new_zeros(len(x), 1, unet.config.clip_image_in_channels)
    return cast(Tensor, unet(x, t, **{"clip_img": nothing, **context}).sample)


def _z_image(transformer: Any, x: Tensor, t: Tensor, context: Context) -> Tensor:
    """`cap_feats`; it predicts x0 - noise."""
    frames = list(x[:, :, None].unbind())
    return -torch.stack(transformer(frames, t, list(context["cap_feats"].unbind())).sample)[:, :, 0]


def _flux(transformer: Any, x: Tensor, t: Tensor, context: Context) -> Tensor:
    rows, columns = x.shape[-2] // 2, x.shape[-1] // 2
    axes = (torch.arange(n, device=x.device) for n in (1, rows, columns))
    text = torch.zeros(context["encoder_hidden_states"].shape[1], 3, device=x.device)
    guidance = x.new_full((len(x),), FLUX_GUIDANCE) if transformer.config.guidance_embeds else None
    return _patched(transformer, x, t, context, img_ids=torch.cartesian_prod(*axes), txt_ids=text, guidance=guidance)


def _qwen_image(transformer: Any, x: Tensor, t: Tensor, context: Context) -> Tensor:
    return _patched(transformer, x, t, context, img_shapes=[[(1, x.shape[-2] // 2, x.shape[-1] // 2)]] * len(x))


def _patched(transformer: Any, x: Tensor, t: Tensor, context: Context, **options: Any) -> Tensor:
    """Patches of 2 x 2 latents go in and come out as tokens, their channels first."""
    rows, columns = x.shape[-2] // 2, x.shape[-1] // 2
    patches = x.unflatten(-2, (rows, 2)).unflatten(-1, (columns, 2)).permute(0, 2, 4, 1, 3, 5)
    tokens = patches.reshape(len(x), rows * columns, -1)
    out = transformer(hidden_states=tokens, timestep=t, **context, **options).sample
    return out.unflatten(-1, (-1, 2, 2)).unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


_CALLS: dict[str, Callable[[Any, Tensor, Tensor, Context], Tensor]] = {
    "UNet2DConditionModel": _unet,
    "StableCascadeUNet": _stage_c,
    "FluxTransformer2DModel": _flux,
    "QwenImageTransformer2DModel": _qwen_image,
    "ZImageTransformer2DModel": _z_image,
}
