"""What the low-rank branch costs in a stack of full-width blocks, beside a plain run and an ordinary LoRA not merged.

Runs take turns; a round's ratio is of its own runs. On a CPU that others use as well a step does not repeat to 1 %:
there `inside_vs_step` tells what the step's difference hides in, the processor's time within the branch, and
`inside_vs_bypass` is that over the time within ComfyUI's bypass LoRA of the same rank in the same layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np

from .full_width import FullWidth
from .timing import Stopwatch, device_name, median, ratio_of_medians, sampling, seconds

DIM = 32
"""Numbers of a user embedding."""


def low_rank_adapter(model: Any, rank: int, unconditional: str = "none") -> Any:
    """An adapter of random weights for all layers of a MODEL, under ComfyUI's memory management."""
    import torch
    from ppd_pack.ppd.adapters import LowRankAdapter, LowRankConfig
    from ppd_pack.ppd.families.sites import family_of_denoiser
    from ppd_pack.ppd.hosts.comfyui import manage_adapter
    from ppd_pack.ppd.hosts.comfyui_denoisers import family_of, linear_sites

    denoiser = model.model.diffusion_model
    config = LowRankConfig(
        family=family_of(model) or family_of_denoiser(denoiser),
        encoder="eyes",
        encoder_hash="0",
        embedding_dim=DIM,
        sites=tuple(linear_sites(denoiser)),
        rank=rank,
        unconditional=unconditional,
    )
    adapter = LowRankAdapter(config)
    for site in adapter.parts():
        torch.nn.init.normal_(site.up, std=0.02)
    return manage_adapter(adapter.requires_grad_(False))


def person(seed: int = 0) -> Any:
    """A user embedding."""
    import torch
    from ppd_pack.ppd.user_embedding import UserEmbedding

    return UserEmbedding(torch.randn(1, DIM, generator=torch.Generator().manual_seed(seed)), "eyes", "0", 4, "")


def bypass_lora(model: Any, adapter: Any) -> Any:
    """The same person as a LoRA that ComfyUI does not merge."""
    import comfy.sd

    tensors = {}
    places = range(adapter.model.config.count)
    for name, (down, up) in adapter.model.lora(person().u[None], 1.0, places).items():
        tensors[f"diffusion_model.{name}.lora_A.weight"] = down
        tensors[f"diffusion_model.{name}.lora_B.weight"] = up.contiguous()
    return comfy.sd.load_bypass_lora_for_models(model, None, tensors, 1.0, 0.0)[0]


@contextmanager
def watched() -> Iterator[dict[str, Stopwatch]]:
    """The processor's time within our branch and within ComfyUI's bypass LoRA."""
    from comfy.weight_adapter.bypass import BypassForwardHook
    from ppd_pack.ppd.hosts.comfyui_low_rank import LowRankBranch

    watches = {"ours": Stopwatch(), "bypass": Stopwatch()}
    add, theirs = LowRankBranch.add, BypassForwardHook._bypass_forward

    def bypassed(self: Any, *args: Any) -> Any:
        plain = self.original_forward
        self.original_forward = watches["bypass"].apart(plain)
        try:
            return watches["bypass"].around(theirs)(self, *args)
        finally:
            self.original_forward = plain

    with (
        patch.object(LowRankBranch, "add", watches["ours"].around(add)),
        patch.object(BypassForwardHook, "_bypass_forward", bypassed),
    ):
        yield watches


def measure_low_rank(full: FullWidth, size: int, rank: int, cfg: float, rounds: int, steps: int = 2) -> dict[str, Any]:
    """step_vs_plain, step_vs_bypass, memory, and the milliseconds behind them, of pictures of `size` pixels.

    Graphs are not to be broken by watches: of a compiled model there are no figures of the time inside.
    """
    import comfy.model_management
    import comfy.samplers
    import torch
    from ppd_pack.ppd.branch import Scope
    from ppd_pack.ppd.hosts.comfyui import apply_user, computed_in

    device = comfy.model_management.get_torch_device()
    compiled = "torch_compile_kwargs" in full.model.model_options
    look_inside = device.type == "cpu" and not compiled
    watching: AbstractContextManager[dict[str, Any]] = watched() if look_inside else nullcontext({})
    with torch.inference_mode(), watching as watches:
        torch.manual_seed(0)
        adapter = low_rank_adapter(full.model, rank)
        models = {
            "plain": full.model,
            "ours": apply_user(full.model, adapter, [person()], scope=Scope("all")),
            "bypass": bypass_lora(full.model, adapter),
        }
        conditions, noise = full.conditions(), full.noise(size)
        sampler = comfy.samplers.sampler_object("euler")
        times: dict[str, list[float]] = {name: [] for name in models}
        inside: dict[str, list[float]] = {name: [] for name in models}
        peaks: dict[str, int] = {}
        for number in range(-1, rounds):  # the first round warms up
            names = list(models)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                for watch in watches.values():
                    watch.seconds = 0.0
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                taken = seconds(device, sampling(models[name], conditions, noise, sampler, steps, cfg))
                if number >= 0:
                    times[name].append(taken / steps)
                    inside[name].append(watches[name].seconds / steps if name in watches else 0.0)
                    if device.type == "cuda":
                        peaks[name] = torch.cuda.max_memory_allocated()
        comfy.model_management.unload_all_models()
    plain, ours, bypass = (np.array(times[name]) for name in models)
    kept = computed_in(full.model.model.get_dtype_inference(), adapter).model
    adapter_bytes = sum(weight.nbytes for weight in kept.parameters())
    report: dict[str, Any] = {
        "step_vs_plain": median(list(ours / plain)),
        "bypass_vs_plain": median(list(bypass / plain)),
        "step_vs_bypass": median(list(ours / bypass)),
    }
    if device.type == "cuda":
        report["memory_above_plain_vs_adapter"] = (peaks["ours"] - peaks["plain"]) / adapter_bytes
    if look_inside:
        own, theirs = np.array(inside["ours"]), np.array(inside["bypass"])
        report["inside_vs_step"] = median(list(own / plain))
        report["inside_vs_bypass"] = ratio_of_medians(own, theirs)
    report["milliseconds"] = {name: float(np.median(values) * 1000) for name, values in times.items()}
    report["settings"] = full.settings | {
        "size": size,
        "rank": rank,
        "cfg": cfg,
        "layers": adapter.model.config.count,
        "rounds": rounds,
        "device": device_name(device),
    }
    return report
