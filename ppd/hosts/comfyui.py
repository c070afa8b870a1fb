"""ComfyUI's MODEL as host: the user branch, for every sampler and guider.

A MODEL carries a frozen `UserBranch` as a SAMPLER_SAMPLE wrapper, and its adapter as an additional model. Each run
makes a `UserRun` from it and hangs that into the run's own copy of the model options: nothing outlives the run, nothing
is written into the model, and a node that runs again starts from the MODEL it was given.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import nn

from ..adapters import LowRankAdapter, UserAdapter
from ..branch import DEFAULT_SCOPE, Outcome, Scope, reason_to_be_off
from ..user_embedding import UserEmbedding
from .comfyui_attention import CrossAttentionBranch
from .comfyui_denoisers import check_model
from .comfyui_low_rank import CompiledLowRankBranch, LowRankBranch
from .comfyui_run import UserRun

log = logging.getLogger(__name__)

KEY = "ppd_user"


def load_adapter(path: Path | str) -> comfy.model_patcher.ModelPatcher:
    """A user adapter's file under ComfyUI's memory management; its `.model` is the adapter."""
    return manage_adapter(UserAdapter.load(path, dtype=None))


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


def computed_in(dtype: torch.dtype, adapter: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """A low-rank adapter in the `dtype` of the model, whose runs then keep no second copy of it; others as they are."""
    held = adapter.model
    if not isinstance(held, LowRankAdapter) or held.sites[0].up.dtype == dtype:
        return adapter
    known = _converted.setdefault(adapter, {})
    if dtype not in known:
        converted = copy.deepcopy(held)
        converted.sites.to(adapter.offload_device, dtype)
        known[dtype] = manage_adapter(converted)
    return known[dtype]


_converted: WeakKeyDictionary[comfy.model_patcher.ModelPatcher, dict[torch.dtype, comfy.model_patcher.ModelPatcher]]
_converted = WeakKeyDictionary()


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
    on_outcome: Callable[[Outcome], None] | None = None,
) -> comfy.model_patcher.ModelPatcher:
    """A clone of `model` that paints for `people`: person i for latent i of a batch, the last one for the rest.

    Applied to a MODEL that is personal already, both branches act and add up. At strength 0, or for null users alone,
    or where `scope` and the adapter's own range of the schedule do not meet, the clone is the model itself. After each
    run `on_outcome` is told what came of it.
    """
    check_model(model, adapter.model.config)
    adapter = computed_in(model.model.get_dtype_inference(), adapter)
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
    places, window = scope.places(adapter.model), scope.window(adapter.model.config)
    branch = UserBranch(adapter, tuple(people), strength, places, window, key, on_outcome)
    personal.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, branch.sample)
    personal.set_additional_models(KEY, [*personal.get_additional_models_with_key(KEY), adapter])
    return personal


@dataclass(frozen=True, eq=False)
class UserBranch:
    """One application of an adapter to a MODEL, shared by the MODEL's clones."""

    adapter: comfy.model_patcher.ModelPatcher
    people: tuple[UserEmbedding, ...]
    strength: float
    places: tuple[int, ...]
    window: tuple[float, float]
    key: str
    """Key of this branch in transformer_options; constant across runs, because compiled graphs bake it in."""
    on_outcome: Callable[[Outcome], None] | None = None

    def sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """SAMPLER_SAMPLE wrapper: hang a new UserRun into this run's own model options, all models being loaded."""
        guider, model_options, noise = args[0], args[2]["model_options"], args[4]
        adapter = self.adapter.model
        run = UserRun(adapter.config, self.people, self.window, self.key, guider, model_options, latents=noise.shape[0])
        added: LowRankBranch | CrossAttentionBranch
        if isinstance(adapter, LowRankAdapter):
            kind = CompiledLowRankBranch if run.compiled else LowRankBranch
            added = kind(run, adapter, self.strength, self.places)
        else:
            added = CrossAttentionBranch(run, adapter, self.strength, self.places, model_options)
        options = model_options["transformer_options"]
        add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, run.begin_evaluation, options)
        add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, run.begin_call, options)
        with added.installed(options):
            result = executor(*args, **kwargs)
        self._finish(run.outcome(len(added.reached), len(self.places)))
        return result

    def _finish(self, outcome: Outcome) -> None:
        """After the run: say what was active, and never let a model that went around the branch pass as personal."""
        log.info("%s", outcome.told())
        if outcome.personal_calls and not outcome.reached:
            raise RuntimeError(
                f"None of the {outcome.kind} reached the user branch, so the picture is not personal: something in the "
                "workflow replaces the denoiser's blocks; remove that, or the user embedding."
            )
        if outcome.personal_calls and outcome.reached < outcome.places:
            log.warning(
                "Only %d of %d %s were personal: another node skips blocks.",
                outcome.reached,
                outcome.places,
                outcome.kind,
            )
        if self.on_outcome is not None:
            self.on_outcome(outcome)
