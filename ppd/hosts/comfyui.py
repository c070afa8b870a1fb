"""ComfyUI's MODEL as host: the user branch in its folded form, for every sampler and guider.

A MODEL carries a frozen `UserBranch` as a SAMPLER_SAMPLE wrapper, and its adapter as an additional model. Each run
makes a `UserRun` from it and hangs that into the run's own copy of the model options: nothing outlives the run, nothing
is written into the model, and a node that runs again starts from the MODEL it was given.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.ldm.cascade.common import OptimizedAttention
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor, nn

from ..adapters import AdapterConfig, UserAdapter
from ..adapters.attention import Folded, fold, folded_attention, user_attention
from ..branch import DEFAULT_SCOPE, Adapter, Scope, branch_keys_values, guidance_sides, reason_to_be_off
from ..user_embedding import UserEmbedding
from .comfyui_denoisers import Place, check_model, cross_attentions, output_layer

log = logging.getLogger(__name__)

KEY = "ppd_user"
FOLD_LIMIT = 2**29
"""Bytes of folded weights above which a run keeps keys and values, heads times smaller: an SDXL plus adapter in all
layers takes 195 MB a person in halves."""
SIGMA_TOLERANCE = 1e-4
"""Neighbouring timesteps lie more than 1e-3 apart in relative sigma; schedulers round sigma at 1e-7."""


def load_adapter(path: Path | str) -> comfy.model_patcher.ModelPatcher:
    """A user adapter's file under ComfyUI's memory management; its `.model` is the adapter."""
    return manage_adapter(UserAdapter.load(path))


def manage_adapter(adapter: nn.Module) -> comfy.model_patcher.ModelPatcher:
    """Put an adapter under ComfyUI's memory management: its layers become ComfyUI's, which load and cast on demand."""
    for module in list(adapter.modules()):
        for name, layer in module.named_children():
            managed: nn.Module
            if type(layer) is nn.Linear:
                bias = layer.bias is not None
                managed = comfy.ops.manual_cast.Linear(layer.in_features, layer.out_features, bias, device="meta")
            elif type(layer) is nn.LayerNorm:
                managed = comfy.ops.manual_cast.LayerNorm(layer.normalized_shape, layer.eps, device="meta")
            else:
                continue
            managed.load_state_dict(layer.state_dict(), assign=True)
            setattr(module, name, managed.requires_grad_(False))
    managed_adapter = comfy.model_patcher.CoreModelPatcher(
        adapter,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    managed_adapter.cached_patcher_init = (_refuse_several_gpus, ())  # what ComfyUI makes clones for other GPUs with
    return managed_adapter


def _refuse_several_gpus() -> None:
    raise ValueError(
        "A user embedding works on one GPU, but the MODEL is spread over several GPUs: remove the node that does so, "
        "or the user embedding."
    )


def apply_user(
    model: comfy.model_patcher.ModelPatcher,
    adapter: comfy.model_patcher.ModelPatcher,
    people: Sequence[UserEmbedding],
    strength: float = 1.0,
    scope: Scope = DEFAULT_SCOPE,
) -> comfy.model_patcher.ModelPatcher:
    """A clone of `model` that paints for `people`: person i for latent i of a batch, the last one for the rest.

    Applied to a MODEL that is personal already, both branches act and add up. At strength 0, or for null users alone,
    or where `scope` and the adapter's own range of the schedule do not meet, the clone is the model itself.
    """
    check_model(model, adapter.model.config)
    if not people:
        raise ValueError("There is no user embedding to apply: give one for each latent, or one for all.")
    for person in people:
        adapter.model.config.check_embedding(person)
        if person.u.shape != people[0].u.shape:
            raise ValueError(
                f"The user embeddings of one batch have shapes {list(people[0].u.shape)} and {list(person.u.shape)}, "
                "expected one shape: encode them with the same settings."
            )
    personal = model.clone()
    if reason_to_be_off(adapter.model, people, strength, scope):
        return personal
    key = f"{KEY}_{len(personal.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY))}"
    layers, window = scope.layers(adapter.model), scope.window(adapter.model.config)
    branch = UserBranch(adapter, tuple(people), strength, layers, window, key)
    personal.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, branch.sample)
    personal.set_additional_models(KEY, [*personal.get_additional_models_with_key(KEY), adapter])
    return personal


@dataclass(frozen=True, eq=False)
class UserBranch:
    """One application of an adapter to a MODEL, shared by the MODEL's clones."""

    adapter: comfy.model_patcher.ModelPatcher
    people: tuple[UserEmbedding, ...]
    strength: float
    layers: tuple[int, ...]
    window: tuple[float, float]
    key: str
    """Under it a call's options hold the branch's Call: the same in each run, since compiled graphs keep the name."""

    def sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """SAMPLER_SAMPLE wrapper: hang a new UserRun into this run's own model options, all models being loaded."""
        guider, model_options, noise = args[0], args[2]["model_options"], args[4]
        run = UserRun(self, guider, model_options, latents=noise.shape[0])
        options = model_options["transformer_options"]
        patches = options.setdefault("patches", {})
        # First and last, so that what other packs do in between (repeat rows for each region, merge them) is theirs
        patches.setdefault("attn2_patch", []).insert(0, run.keep_input)
        patches.setdefault("attn2_output_patch", []).append(run.add_user)
        add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, run.begin_evaluation, options)
        add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, run.begin_call, options)
        # Stage C calls no patches
        hooks = [
            attention.register_forward_hook(partial(run.add_behind, place), with_kwargs=True)
            for place, attention in run.layers.items()
            if isinstance(attention, OptimizedAttention)
        ]
        try:
            result = executor(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        run.finish()
        return result


@dataclass(frozen=True)
class Call:
    """One call of the denoiser: which of its rows are personal."""

    run: UserRun
    personal: list[tuple[slice, int]]
    """Rows, and which of the run's sides they get."""
    active: Tensor | None
    """[rows of a slice, 1, 1] of 1 and 0, where rows differ in being inside the adapter's window."""

    def add(self, place: Place, x: Tensor, out: Tensor) -> Tensor:
        """A layer's output [B, L, out] with the user branch added; x [B, L, in] is what goes into to_q."""
        out = out.clone()
        for rows, side in self.personal:
            added = self.run.attend(place, side, x[rows])
            out[rows].add_(added if self.active is None else added * self.active)
        return out


class UserRun:
    """One sampling run of a UserBranch: its keys and values, folded, and the patches that add them."""

    def __init__(self, branch: UserBranch, guider: Any, model_options: dict[str, Any], latents: int) -> None:
        model = guider.model_patcher.model
        adapter = cast(Adapter, branch.adapter.model)
        self.config: AdapterConfig = adapter.config
        self.people, self.latents, self.model, self.key = branch.people, latents, model, branch.key
        self.stash, self.lists = f"{self.key}_input", f"{self.key}_lists"
        places = list(cross_attentions(model.diffusion_model).items())
        self.layers = dict(places[layer] for layer in branch.layers)
        """The layers it acts in, by their places."""
        self.unconditional = {conds[0]["uuid"] for name, conds in guider.conds.items() if "negative" in name and conds}
        self.known = {conds[0]["uuid"] for conds in guider.conds.values() if conds}
        self.always = branch.window == (0, 1)
        self.high, self.low = (model.model_sampling.percent_to_sigma(percent) for percent in branch.window)
        self.compiled = "torch_compile_kwargs" in model_options
        self.groups = adapter.groups
        u = torch.stack([person.u for person in branch.people]).to(guider.model_patcher.load_device)
        # All people side by side: those of conditional rows, then those of unconditional ones where they get their own
        u = torch.cat(guidance_sides(u, self.config.unconditional))
        keys_values = branch_keys_values(adapter, u, branch.strength, branch.layers)
        self.keys_values = dict(zip(self.layers, keys_values, strict=True))
        # Hooks change to_q within a run, and a stored input scale may clamp the fold's probe: call the layers there
        self.plain = "registered_hooks" in model_options or any(
            getattr(linear, "input_scale", None) is not None
            for layer in self.layers.values()
            for linear in (layer.to_q, *output_layer(layer).modules())
        )
        self.plain = self.plain or self._folded_size() > FOLD_LIMIT
        self.folded = {} if self.plain else self._fold()
        self.cast: dict[tuple[Place, int, torch.device, torch.dtype], Folded | tuple[Tensor, Tensor]] = {}
        self.calls = self.active_calls = 0
        self.reached: set[Place] = set()
        if len(self.people) not in (1, latents):
            log.warning("%s", count_report(len(self.people), latents))

    def _side(self, unconditional: bool) -> int | None:
        """Which side's keys and values a row gets, or None for the base's own."""
        if not unconditional or self.config.unconditional == "same":
            return 0
        return 1 if self.config.unconditional == "negative" else None

    def _folded_size(self) -> int:
        """Bytes that the folded form would take."""
        values = (
            k.shape[0] * k.shape[1] * self.layers[place].heads * 2 * k.shape[2]
            for place, (k, _) in self.keys_values.items()
        )
        return sum(values) * self.model.get_dtype_inference().itemsize

    def _fold(self) -> dict[Place, Folded]:
        dtype = self.model.get_dtype_inference()
        return {
            place: fold(
                layer.to_q, output_layer(layer), *self.keys_values[place], layer.heads, layer.to_q.in_features, dtype
            ).to(dtype)
            for place, layer in self.layers.items()
        }

    def begin_evaluation(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """CALC_COND_BATCH wrapper: which of the lists of conditions are unconditional.

        Their place tells it only for ordinary guidance (0 positive, 1 negative); other guiders have other orders. Lists
        are known by their first condition: those appended for another list's area carry that list's uuid.
        """
        conds, model_options = args[1], args[4]
        firsts = [None if not conds_ else conds_[0].get("uuid") for conds_ in conds]
        unconditional = frozenset(
            index
            for index, uuid in enumerate(firsts)
            if uuid in self.unconditional or (uuid not in self.known and index == 1)
        )
        options = {**model_options["transformer_options"], self.lists: (unconditional, args[2].shape[0])}
        return executor(*args[:4], {**model_options, "transformer_options": options}, *args[5:], **kwargs)

    def begin_call(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """APPLY_MODEL wrapper: decide once for all layers which rows of this call are personal."""
        sigma, options = args[1], args[5]
        self.calls += 1
        chunks = options.get("cond_or_uncond") or [0]
        unconditional, rows = options.get(self.lists, (frozenset({1}), sigma.shape[0] // len(chunks)))
        sides = [self._side(index in unconditional) for index in chunks]
        # Tiled diffusion puts its tiles one after the other, each with all of its lists' rows
        tiles = sigma.shape[0] // (rows * len(chunks))
        personal = [
            (slice(number * rows, (number + 1) * rows), side)
            for number, side in enumerate(sides * tiles)
            if side is not None
        ]
        call = None
        # A guider may call another model for its unconditional rows
        if personal and executor.class_obj is self.model:
            call = self._call(personal, sigma[:rows], tiles)
        return executor(*args[:5], {**options, self.key: call}, *args[6:], **kwargs)

    def _call(self, personal: list[tuple[slice, int]], sigma: Tensor, tiles: int) -> Call | None:
        inside, rows = self._inside(sigma), sigma.shape[0]
        if not any(inside) and not self.compiled:
            return None
        if len(self.people) > 1 and (rows, tiles) != (self.latents, 1):
            raise ValueError(
                f"There are {len(self.people)} people for {self.latents} latents, but the model is called with "
                f"{rows * tiles} latents at a time: use one person, or sample without tiles and context windows."
            )
        self.active_calls += any(inside)
        # A compiled graph keeps what the first call branched on, so there a tensor tells, in all calls or in none
        whole = self.always if self.compiled else all(inside)
        return Call(self, personal, None if whole else torch.tensor(inside, device=sigma.device)[:, None, None])

    def keep_input(self, n: Tensor, context: Tensor, value: Tensor, extra: dict[str, Any]) -> tuple[Tensor, ...]:
        """attn2_patch: what goes into to_q, kept for `add_user` of the same block."""
        if extra.get(self.key) is not None and (*extra["block"], extra["block_index"]) in self.layers:
            extra[self.stash] = n
        return n, context, value

    def add_user(self, out: Tensor, extra: dict[str, Any]) -> Tensor:
        """attn2_output_patch: the attention's output after to_out [B, L, C], with the user branch added."""
        x = extra.pop(self.stash, None)
        if x is None:
            return out
        call: Call = extra[self.key]
        return call.add((*extra["block"], extra["block_index"]), x, out)

    def add_behind(
        self, place: Place, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor
    ) -> Tensor:
        """Forward hook of Stage C's attention, which is called with its queries' input first [B, L, C]."""
        call: Call | None = kwargs["transformer_options"].get(self.key)
        return out if call is None else call.add(place, args[0], out)

    def finish(self) -> None:
        """After the run: say what was active, and never let a model that went around the patches pass as personal."""
        layers = len(self.layers)
        log.info(
            "Personalized %d of %d model calls in %d of %d cross-attention layers.",
            self.active_calls,
            self.calls,
            len(self.reached),
            layers,
        )
        if self.active_calls and not self.reached:
            raise RuntimeError(
                "No cross-attention layer reached the user branch, so the picture is not personal: something in the "
                "workflow replaces the denoiser's attention blocks; remove that, or the user embedding."
            )
        if self.active_calls and len(self.reached) < layers:
            log.warning("Only %d of %d layers were personal: another node skips blocks.", len(self.reached), layers)

    def _inside(self, sigma: Tensor) -> list[bool]:
        if self.always:
            return [True]
        inside = (sigma >= self.low * (1 - SIGMA_TOLERANCE)) & (sigma <= self.high * (1 + SIGMA_TOLERANCE))
        return cast(list[bool], inside.tolist())

    def attend(self, place: Place, side: int, x: Tensor) -> Tensor:
        """The addition to one layer's output for rows x [B, L, in]."""
        self.reached.add(place)
        layer, key = self.layers[place], (place, side, x.device, x.dtype)
        if key not in self.cast:
            self.cast[key] = self._plain_rows(place, side, x) if self.plain else self._folded_rows(place, side, x)
        held = self.cast[key]
        if isinstance(held, Folded):
            return folded_attention(x, held, layer.heads, self.groups)
        k, v = held
        attended, to_out = user_attention(layer.to_q(x), k, v, layer.heads, self.groups), output_layer(layer)
        return to_out(attended) - to_out(torch.zeros_like(attended[:1, :1]))

    def _folded_rows(self, place: Place, side: int, x: Tensor) -> Folded:
        folded, people = self.folded[place], self._people(side)
        offset = None if folded.offset is None else folded.offset[people]
        return Folded(folded.scores[people], folded.values[people], offset).to(x.device, x.dtype)

    def _plain_rows(self, place: Place, side: int, x: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.keys_values[place]
        return k[self._people(side)].to(x), v[self._people(side)].to(x)

    def _people(self, side: int) -> slice | list[int]:
        """The embedding of each latent on one side; one person stands for all rows by broadcasting."""
        count = len(self.people)
        if count in (1, self.latents):
            return slice(side * count, (side + 1) * count)  # a view, where a list would copy
        return [side * count + min(latent, count - 1) for latent in range(self.latents)]


def count_report(people: int, latents: int) -> str:
    """One sentence for a batch whose number of people is not its number of latents."""
    if people > latents:
        return f"There are {people} people for {latents} latents: the last {people - latents} are not painted for."
    return f"There are {people} people for {latents} latents: the last person gets the last {latents - people + 1}."
