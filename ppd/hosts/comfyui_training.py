"""Any model that ComfyUI loads, as a denoiser to train user adapters for (denoiser.Denoiser).

All parameterisations are one: what ComfyUI's samplers see, D, is affine in the network's output F.

    x = noise_scaling(sigma, noise, x0)
    D = a x + b F                                 both of them calculate_denoised's
    predict = (D - a x) / b = F
    target = (x0 - a x) / b                       the noise, v, noise - x0, or x0: what F should be

t is sigma, x0 a picture's latent as the VAE decodes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import comfy.conds
import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import comfy.sd
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..adapters import LowRankAdapter, UserAdapter
from .checkpointing import checkpointed
from .comfyui_denoisers import check_model, cross_attentions, linear_sites, low_rank_family, output_layer
from .comfyui_gradients import differentiable, leave_inference_mode
from .comfyui_run import Window
from .denoiser import KeepTexts, in_memory, numbered
from .hooks_attention import AttentionLayer, CrossAttentionEffect
from .hooks_low_rank import LowRankEffect

Effect = LowRankEffect | CrossAttentionEffect
State = dict[str, tuple[str, Any]]
"""What ComfyUI's model makes of one prompt, by the names of apply_model's arguments: the class of comfy.conds, and what
it holds, on the CPU in the model's precision."""
Conditions = dict[str, comfy.conds.CONDRegular]
TOGETHER = 128
"""Prompts that are read before the model makes its conditions of them, since a GPU may have room for one of the two."""
Reader = Callable[[str], list[list[Any]]]
"""A prompt to ComfyUI's CONDITIONING."""


def reader(clip: comfy.sd.CLIP) -> Reader:
    """Reads prompts with a CLIP."""
    return lambda prompt: clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


class Part(NamedTuple):
    """Rows [n] of a batch that can be one call, and what apply_model is given for them."""

    rows: Tensor
    conditions: dict[str, Any]


@dataclass(frozen=True)
class ComfyUITexts:
    """Prompts, each read once and kept on the CPU or on disk: `states[places[i]]` is what the model makes of prompt
    i."""

    states: Sequence[State]
    places: np.ndarray
    device: torch.device

    def __getitem__(self, rows: np.ndarray) -> list[Part]:
        """The batch as ComfyUI's sampler would put it into calls: prompts of other lengths may need calls of their
        own."""
        found: list[tuple[list[int], list[Conditions]]] = []
        for row, place in enumerate(self.places[rows]):
            given = {name: getattr(comfy.conds, kind)(held) for name, (kind, held) in self.states[place].items()}
            like = [part for part in found if comfy.samplers.cond_equal_size(part[1][0], given)]
            if not like:
                found.append(([], []))
            numbers, together = like[0] if like else found[-1]
            numbers.append(row)
            together.append(given)
        return [
            Part(torch.tensor(numbers, device=self.device), comfy.samplers.cond_cat(together, self.device))
            for numbers, together in found
        ]


class ComfyUIDenoiser:
    """A MODEL, frozen, with its LoRAs and in its own precision, for latents [C, ...] of one `shape`.

    `read` makes CONDITIONING of a prompt, and `keep` is where that stays. With `checkpointing` a step takes about a
    third longer and keeps the inputs of the blocks alone.
    """

    def __init__(
        self,
        model: ModelPatcher,
        read: Reader,
        shape: Sequence[int],
        *,
        checkpointing: bool = False,
        keep: KeepTexts = in_memory,
    ) -> None:
        self.model, self.read, self.shape, self.checkpointing = model, read, tuple(shape), checkpointing
        self.keep = keep
        self.base = model.model.requires_grad_(False)
        self.family = low_rank_family(model)
        self.personal: Callable[[Tensor, Tensor, int], Effect | None] | None = None
        """Who is painted for now: what is added for rows [n] at sigma [n] of a batch of so many."""
        self.effect: Effect | None = None
        """That of the call that goes on."""
        self._load()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return cast(torch.device, self.model.load_device)

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> ComfyUITexts:
        """Reads prompts; the text encoder is not needed after that."""
        unique, places = numbered(prompts)
        return ComfyUITexts(self.keep(unique, self._states), places, self.device)

    def draw_timesteps(self, rng: np.random.Generator, count: int, end_percent: float) -> Tensor:
        """sigma [count], even over what ComfyUI counts as the part of the schedule from 0 to `end_percent`."""
        sampling = self.base.model_sampling
        sigma = torch.tensor([float(sampling.percent_to_sigma(p)) for p in rng.uniform(0, end_percent, count)])
        return sigma.clamp(float(sampling.sigma_min), float(sampling.sigma_max))

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Latents under noise, as the model sees them."""
        return cast(Tensor, self.base.model_sampling.noise_scaling(t, noise, self.base.process_latent_in(x0)))

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The network's output that would denoise them."""
        return self._output(self.base.process_latent_in(x0), self.noised(x0, noise, t), t)

    def predict(self, x: Tensor, t: Tensor, context: Sequence[Part]) -> Tensor:
        """The network's output for latents x [n, C, ...] at sigma t [n], in float32."""
        self._load()
        # The MODEL and what is added to it compute as they do when it paints, whatever the loop computes in
        with torch.autocast(self.device.type, enabled=False):
            found = [self._denoised(x, t, part) for part in context]
            order = torch.cat([part.rows for part in context]).argsort()
            return self._output(torch.cat(found)[order], x, t)

    def host(self, adapter: UserAdapter) -> ComfyUITrainingHost:
        """The denoiser, to be personalised by an adapter that was made for it."""
        return ComfyUITrainingHost(self, adapter)

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        """Within it ComfyUI takes the forms of its layers that gradients flow through."""
        network = self.base.diffusion_model
        with differentiable(network), checkpointed(network, self._resume) if self.checkpointing else nullcontext():
            yield

    def _load(self) -> None:
        """Wholly, since weights that are streamed in would be gone when backward needs them. What painted in between
        may have driven the model from the GPU."""
        comfy.model_management.load_models_gpu([self.model], force_full_load=True)
        if not torch.is_inference_mode_enabled():
            leave_inference_mode(self.base)

    def _states(self, prompts: Sequence[str]) -> list[State]:
        noise = torch.zeros(1, *self.shape, device=self.device)
        found: list[State] = []
        for start in range(0, len(prompts), TOGETHER):
            read = [self.read(prompt) for prompt in prompts[start : start + TOGETHER]]
            self._load()  # some models make tokens themselves
            found += [self._state(conditioning, noise) for conditioning in read]
        return found

    def _state(self, conditioning: list[list[Any]], noise: Tensor) -> State:
        given = comfy.sampler_helpers.convert_cond(conditioning)
        (found,) = comfy.samplers.encode_model_conds(
            self.base.extra_conds, given, noise, self.device, "positive", latent_image=noise, denoise_mask=None, seed=0
        )
        dtype = self.base.get_dtype_inference()
        conditions = {name: one.process_cond(batch_size=1, area=None) for name, one in found["model_conds"].items()}
        return {name: (type(one).__name__, _held(one.cond, dtype)) for name, one in conditions.items()}

    def _output(self, denoised: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """F of D, x and sigma."""
        sampling, zero = self.base.model_sampling, torch.zeros_like(x)
        a_x, b = sampling.calculate_denoised(t, zero, x), sampling.calculate_denoised(t, torch.ones_like(x), zero)
        return cast(Tensor, (denoised - a_x) / b)

    def _denoised(self, x: Tensor, t: Tensor, part: Part) -> Tensor:
        sigma = t[part.rows]
        options = {**self.model.model_options["transformer_options"], "cond_or_uncond": [0], "sigmas": sigma}
        self.effect = None if self.personal is None else self.personal(part.rows, sigma, len(x))
        added = nullcontext() if self.effect is None else self.effect.installed()
        try:
            with added:
                found = self.base.apply_model(x[part.rows], sigma, **part.conditions, transformer_options=options)
            if self.effect is not None:
                _check_reached(self.effect)
            return cast(Tensor, found)
        finally:
            self.effect = None

    def _resume(self) -> Callable[[nn.Module], AbstractContextManager[None]]:
        effect = self.effect
        return lambda block: nullcontext() if effect is None else effect.installed(block)


class ComfyUITrainingHost:
    """A denoiser personalised as ComfyUI's sampler has it (comfyui.apply_user), with gradients into the adapter."""

    def __init__(self, denoiser: ComfyUIDenoiser, adapter: UserAdapter) -> None:
        check_model(denoiser.model, adapter.config)
        self.denoiser, self.adapter = denoiser, adapter
        self.window = Window(denoiser.base, (adapter.config.start_percent, adapter.config.end_percent))
        network = denoiser.base.diffusion_model
        self._effect_of: Callable[..., Effect]
        if isinstance(adapter, LowRankAdapter):
            self._effect_of = partial(LowRankEffect, [[layer] for layer in linear_sites(network).values()])
        else:
            found = cross_attentions(network).values()
            layers = [AttentionLayer(layer.heads, layer.to_q, output_layer(layer)) for layer in found]
            self._effect_of = partial(CrossAttentionEffect, layers)

    @contextmanager
    def personalized(self, u: Tensor) -> Iterator[None]:
        """Within it the denoiser predicts for the users u [B, N, d], B the rows of its calls, or 1 for all rows alike.
        Null users get exactly what it predicts without."""
        if u.any():
            weight = next(self.adapter.parameters())
            self.denoiser.personal = partial(self._effect, u.to(weight.device, weight.dtype))
        try:
            yield
        finally:
            self.denoiser.personal = None

    def _effect(self, u: Tensor, rows: Tensor, sigma: Tensor, batch: int) -> Effect | None:
        if len(u) not in (1, batch):
            raise ValueError(
                f"There are user embeddings for {len(u)} rows, but the denoiser is called with {batch}: give one for "
                "each row, or one for all."
            )
        inside = torch.tensor(self.window.inside(sigma), device=u.device)
        own = u.expand(batch, -1, -1)[rows.to(u.device)] * inside[:, None, None]
        if not own.any():
            return None
        effect = self._effect_of(self.adapter, 1.0, range(self.adapter.config.count))
        effect.begin(own)
        return effect


def _check_reached(effect: Effect) -> None:
    reached, expected = len(effect.reached), len(effect.layers)
    if reached < expected:
        raise RuntimeError(
            f"Only {reached} of {expected} {effect.adapter.config.places} were personalised, since something goes "
            "around the others: remove what replaces the model's blocks, or train for the plain model."
        )


def _held(condition: Any, dtype: torch.dtype) -> Any:
    """A copy on the CPU, which gradients may flow by whatever mode it was made in, rounded as apply_model would."""
    if isinstance(condition, list):
        return [_held(part, dtype) for part in condition]
    if not isinstance(condition, Tensor):
        return condition
    return condition.to("cpu", dtype if condition.is_floating_point() else None, copy=True)
