"""`python -m benchmarks.sampling --family sd15|sdxl|qwen_image|z_image|flux|krea2`: what a person costs at full width.

Of transformers one block of each kind runs with the low-rank branch (benchmarks.low_rank), of U-Nets all with keys and
values. Random weights cost what trained ones cost. Plain runs, personal runs and, with `--peer` a checkout of
ComfyUI_IPAdapter_plus, the peer's take turns, all with one IP-Adapter in all layers. A round's ratio is of its own
runs; figures are medians with 95 % bootstrap intervals over rounds. Preparation is what a run of no steps takes longer
than a plain one.

Two cores that others use as well do not repeat a step to 1 %. There `inside` tells what the step's difference hides in:
the time within our patches, and within the peer's less that of the attention which it replaces.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .full_width import DENOISERS, FORMATS, full_width
from .low_rank import measure_low_rank
from .pocket_step import load_folder, load_pack
from .timing import Stopwatch, device_name, median, ratio_of_medians, sampling, seconds

WIDTHS = {"sd15": (320, 640, 1280, 1280), "sdxl": (320, 640, 1280)}
DEPTHS = {"sd15": (1, 1, 1, 0), "sdxl": (0, 2, 10)}
CONTEXT = {"sd15": 768, "sdxl": 2048}


def full_model(family: str, dtype: Any, width: int = 320) -> Any:
    """ComfyUI's MODEL of the family with random weights, at full width unless its first level's `width` is another."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    depths = DEPTHS[family]
    config = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": width,
        "num_res_blocks": [2] * len(depths),
        "channel_mult": [width // 320 for width in WIDTHS[family]],
        "transformer_depth": [depth for depth in depths for _ in range(2)],
        "transformer_depth_output": [depth for depth in depths for _ in range(3)],
        "transformer_depth_middle": depths[-1] or 1,
        "use_linear_in_transformer": family == "sdxl",
        "context_dim": CONTEXT[family],
        "adm_in_channels": 2816 if family == "sdxl" else None,
        "num_classes": "sequential" if family == "sdxl" else None,
        "use_temporal_attention": False,
        "use_spatial_transformer": True,
        "legacy": False,
        "dtype": dtype,
    }
    settings = (comfy.supported_models.SD15 if family == "sd15" else comfy.supported_models.SDXL)(config)
    base = settings.get_model({})
    with torch.no_grad():
        for parameter in base.diffusion_model.parameters():
            parameter.normal_(0, 0.02)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(base, device, comfy.model_management.unet_offload_device())


def write_ip_adapter(path: Path, widths: list[int], context: int) -> None:
    """A plain IP-Adapter of random weights."""
    import torch
    from safetensors.torch import save_file

    def draw(*shape: int) -> Any:
        return torch.randn(*shape) * 0.02

    tensors = {"image_proj.proj.weight": draw(4 * context, 1024), "image_proj.proj.bias": draw(4 * context)}
    tensors |= {"image_proj.norm.weight": 1 + draw(context), "image_proj.norm.bias": draw(context)}
    for number, width in enumerate(widths):
        for which in "kv":
            tensors[f"ip_adapter.{2 * number + 1}.to_{which}_ip.weight"] = draw(width, context)
    save_file(tensors, path)


def peers_model(checkout: Path, model: Any, file: Path, u: Any, u_negative: Any) -> Any:
    """The peer's MODEL of the same adapter and the same embeddings."""
    from safetensors.torch import load_file

    parts: dict[str, dict[str, Any]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in load_file(file).items():
        part, rest = name.split(".", 1)
        parts[part][rest] = tensor
    load_folder("peer", checkout)
    node = importlib.import_module("peer.IPAdapterPlus").IPAdapterEmbeds()
    return node.apply_ipadapter(
        model, parts, u[None], 1.0, "linear", 0.0, 1.0, neg_embed=u_negative[None], embeds_scaling="V only"
    )[0]


def stock_attention(q: Any, k: Any, v: Any, extra: dict[str, Any]) -> Any:
    """What ComfyUI does where nobody replaces it."""
    from comfy.ldm.modules.attention import optimized_attention

    return optimized_attention(q, k, v, extra["n_heads"])


def replaced(model: Any, blocks: list[Any], function: Callable[[Any], Callable[..., Any]]) -> Any:
    """A clone whose attention in `blocks` is `function` of what is there (None for ComfyUI's own)."""
    clone = model.clone()
    present = clone.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    for block in blocks:
        clone.set_model_attn2_replace(function(present.get(block)), *block)
    return clone


def measure(family: str, size: int, steps: int, rounds: int, peer_checkout: Path | None) -> dict[str, Any]:
    """step_vs_plain, overhead_vs_peer, preparation_vs_step, and the milliseconds behind them."""
    load_pack()
    import comfy.model_management
    import comfy.samplers
    import torch
    from ppd_pack.ppd.adapters.ip_adapter import TasteIPAdapter, load_ip_adapter
    from ppd_pack.ppd.branch import Scope
    from ppd_pack.ppd.hosts.comfyui import apply_user, manage_adapter
    from ppd_pack.ppd.hosts.comfyui_attention import CrossAttentionBranch
    from ppd_pack.ppd.hosts.comfyui_denoisers import cross_attentions
    from ppd_pack.ppd.user_embedding import UserEmbedding

    device = comfy.model_management.get_torch_device()
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = full_model(family, dtype)
        layers = cross_attentions(model.model.diffusion_model)
        file = Path(folder) / "ip-adapter.safetensors"
        write_ip_adapter(file, [layer.heads * layer.dim_head for layer in layers.values()], CONTEXT[family])
        shown = torch.eye(1024)[:, None]  # of u itself, as the peer
        adapter = manage_adapter(TasteIPAdapter(load_ip_adapter(file), "eyes", "0", torch.zeros(1, 1024), shown))
        u = torch.randn(1, 1024)
        person = UserEmbedding(u, "eyes", "0", 4, "")
        watch = Stopwatch()
        models = {"plain": model, "ours": apply_user(model, adapter, [person], scope=Scope("all"))}
        if device.type == "cpu":
            for name in ("add", "keep_input"):
                setattr(CrossAttentionBranch, name, watch.around(getattr(CrossAttentionBranch, name)))
        if peer_checkout is not None:
            models["peer"] = peers_model(peer_checkout, model, file, u, -u)
            if device.type == "cpu":
                blocks = list(models["peer"].model_options["transformer_options"]["patches_replace"]["attn2"])
                models["peer"] = replaced(models["peer"], blocks, watch.around)
                models["stock"] = replaced(model, blocks, lambda _: watch.around(stock_attention))
        conditions, noise = random_conditions(family), torch.randn(1, 4, size // 8, size // 8)
        sampler, nothing = comfy.samplers.sampler_object("euler"), comfy.samplers.KSAMPLER(no_steps)

        def run_seconds(patched: Any, sampler: Any) -> float:
            return seconds(device, sampling(patched, conditions, noise, sampler, steps))

        times: dict[str, list[float]] = {name: [] for name in models}
        before: dict[str, list[float]] = {name: [] for name in models}
        inside: dict[str, list[float]] = {name: [] for name in models}
        for number in tqdm(range(-1, rounds), desc=f"{family}, {size} px"):  # the first round warms up
            names = list(models)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                without = run_seconds(models[name], nothing)
                watch.seconds = 0.0
                run = run_seconds(models[name], sampler)
                if number >= 0:
                    before[name].append(without)
                    times[name].append((run - without) / steps)
                    inside[name].append(watch.seconds / steps)
    plain, ours = np.array(times["plain"]), np.array(times["ours"])
    preparation = np.array(before["ours"]) - np.array(before["plain"])
    name = device_name(device)
    report: dict[str, Any] = {
        "step_vs_plain": median(list(ours / plain)),
        "preparation_vs_step": median(list(preparation / plain)),
    }
    milliseconds = {"plain step": plain, "added to it": ours - plain, "preparation": preparation}
    if device.type == "cpu":
        report["inside_vs_step"] = median(list(np.array(inside["ours"]) / plain))
        milliseconds["inside our patches"] = np.array(inside["ours"])
    if "peer" in times:
        theirs = np.array(times["peer"])
        report["step_vs_plain_peer"] = median(list(theirs / plain))
        overheads = np.median(ours - plain), np.median(theirs - plain)
        report["overhead_vs_peer"] = ratio_of_medians(ours - plain, theirs - plain)
        milliseconds["added by the peer"] = theirs - plain
        # The peer leaves the middle block out
        theirs_layers = len(layers) - sum(block[0] == "middle" for block in layers)
        report["overhead_per_layer_vs_peer"] = float(overheads[0] / len(layers) / (overheads[1] / theirs_layers))
        if device.type == "cpu":
            own, peers = np.array(inside["ours"]), np.array(inside["peer"]) - np.array(inside["stock"])
            report["inside_vs_peer"] = ratio_of_medians(own, peers)
            report["inside_per_layer_vs_peer"] = ratio_of_medians(own / len(layers), peers / theirs_layers)
            milliseconds["inside the peer's patches, less the attention they replace"] = peers
    for figure in report.values():
        if isinstance(figure, dict):
            figure["device"] = name
    report["milliseconds"] = {what: float(np.median(value) * 1000) for what, value in milliseconds.items()}
    settings = {"family": family, "size": size, "steps": steps, "rounds": rounds, "layers": len(layers)}
    return report | {"settings": settings | {"dtype": str(dtype), "sampler": "euler, cfg 4, batch 1"}}


def no_steps(model: Callable[..., Any], noise: Any, *args: Any, **kwargs: Any) -> Any:
    """A sampler that takes none, so that a run of it costs what comes before the first step."""
    return noise


def random_conditions(family: str) -> list[Any]:
    """Positive and negative conditioning."""
    import torch

    options = {"pooled_output": torch.randn(1, 1280)}
    return [[[torch.randn(1, 77, CONTEXT[family]), options]] for _ in range(2)]


def measure_blocks(
    family: str, size: int, rounds: int, dtype: str, ranks: list[int], cfgs: list[float]
) -> dict[str, Any]:
    """Figures of benchmarks.low_rank for one block of each kind, by rank and cfg."""
    load_pack()
    import torch

    stored = dtype if dtype in FORMATS else None
    with torch.inference_mode():
        full = full_width(family, 1, torch.bfloat16 if dtype == "bf16" or stored else torch.float32, stored)
    cases = [(rank, cfg) for rank in ranks for cfg in cfgs]
    return {
        f"rank {rank}, cfg {cfg:g}": measure_low_rank(full, size, rank, cfg, rounds)
        for rank, cfg in tqdm(cases, desc=f"{family}, {dtype}, {size} px")
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling")
    parser.add_argument("--family", choices=[*WIDTHS, *DENOISERS], required=True)
    parser.add_argument("--size", type=int, default=256, help="pixels of the square (default: 256)")
    parser.add_argument("--steps", type=int, default=2, help="of U-Nets")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--dtype", choices=["fp32", "bf16", *FORMATS], default="fp32", help="of transformers")
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 64], help="of transformers' low-rank branch")
    parser.add_argument("--cfg", type=float, nargs="+", default=[1.0, 4.0], help="of transformers")
    parser.add_argument("--peer", type=Path, help="checkout of ComfyUI_IPAdapter_plus to compare with (U-Nets)")
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    if said.family in DENOISERS:
        figures = measure_blocks(said.family, said.size, said.rounds, said.dtype, said.ranks, said.cfg)
    else:
        figures = measure(said.family, said.size, said.steps, said.rounds, said.peer)
    print(json.dumps(figures, indent=1))
    if said.json is not None:
        said.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
