"""`python -m benchmarks.gpu_checks --json FILE`: what only a GPU can tell of a person's cost, cut to fit eight minutes.

For the low-rank branch in Z-Image (all 30 blocks), Qwen-Image, Flux and Krea 2 (some blocks, full width) of random
weights in bf16, int8 and fp8, at 1024 px: that zero is exact and rows are kept apart, the ratio of a step with the
branch to a plain one and to ComfyUI's LoRA that is not merged, and the memory. Then torch.compile with inductor, and
keys and values in SDXL. A check that fails is reported and the next one runs; none begins after the time is up.

`--tiny` runs all of it at tiny widths, also on a CPU, to see that it runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .full_width import FORMATS, FullWidth, full_width
from .low_rank import low_rank_adapter, measure_low_rank, person
from .pocket_step import load_pack
from .timing import sampling

BLOCKS = {"z_image": 30, "qwen_image": 8, "flux": 4, "krea2": 4}
"""As many as leave room for a second copy in 8 bits on a card of 80 GB, and are told from noise."""
DTYPES = ("bf16", *FORMATS)


def exactness(full: FullWidth, size: int) -> dict[str, Any]:
    """Whether zero is the plain picture bit for bit; and in a batch of two people, how far rows are from their own
    person's picture, of how far from the other's."""
    import comfy.samplers
    import torch
    from ppd_pack.ppd.branch import Scope
    from ppd_pack.ppd.hosts.comfyui import apply_user

    adapter = low_rank_adapter(full.model, 16)
    conditions, noise = full.conditions(), full.noise(size, batch=2)

    def paint(people: list[int], strength: float = 8.0) -> Any:
        model = full.model
        if people:
            model = apply_user(model, adapter, [person(seed) for seed in people], strength, Scope("all"))
        sampler = comfy.samplers.sampler_object("euler")
        return sampling(model, conditions, noise, sampler, 2)().float()

    def apart(one: Any, other: Any) -> float:
        return float((one - other).square().mean().sqrt())

    plain, both, first, second = paint([]), paint([1, 2]), paint([1]), paint([2])
    return {
        "repeats": bool(torch.equal(paint([]), plain)),
        "zero_is_exact": bool(torch.equal(paint([1], strength=0.0), plain)),
        "effect": apart(first, plain),
        "rows_own_vs_other": [
            apart(both[0], first[0]) / apart(both[0], second[0]),
            apart(both[1], second[1]) / apart(both[1], first[1]),
        ],
    }


def transformer(family: str, dtype: str, tiny: bool, rounds: int) -> dict[str, Any]:
    """Exactness, and cost by rank and cfg, of one family in one dtype."""
    import torch

    stored = dtype if dtype in FORMATS else None
    size = 64 if tiny else 1024
    with torch.inference_mode():
        full = full_width(family, 1 if tiny else BLOCKS[family], torch.bfloat16, stored, tiny)
        report: dict[str, Any] = {"exact": exactness(full, size)}
        for rank, cfg in ((16, 1.0), (16, 4.0), (64, 1.0)):
            report[f"rank {rank}, cfg {cfg:g}"] = measure_low_rank(full, size, rank, cfg, rounds)
    return report


def compiled(tiny: bool, rounds: int) -> dict[str, Any]:
    """Two blocks of Z-Image under torch.compile, as the stock node does it: the same ratio; breaks, and the graphs that
    another person needs (none)."""
    import torch
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
    from torch._dynamo.utils import counters

    size = 64 if tiny else 1024
    with torch.inference_mode():
        full = full_width("z_image", 1 if tiny else 2, torch.bfloat16, None, tiny)
        model = full.model.clone()
        options = {"guard_filter_fn": skip_torch_compile_dict}
        set_torch_compile_wrapper(model, "eager" if tiny else "inductor", options)
        whole = FullWidth(full.family, model, full.text_width, full.settings)
        report = measure_low_rank(whole, size, 16, 1.0, rounds)
        graphs = counters["stats"]["unique_graphs"]
        measure_low_rank(whole, size, 16, 1.0, 1)
        again = counters["stats"]["unique_graphs"] - graphs
    return report | {"graphs": graphs, "graphs_again": again, "graph_breaks": sum(counters["graph_break"].values())}


def u_net(tiny: bool, rounds: int) -> dict[str, Any]:
    """Keys and values in SDXL."""
    from .sampling import measure

    return measure("sdxl", 64 if tiny else 1024, 4, rounds, None, width=32 if tiny else 320)


def checks(tiny: bool, rounds: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """By their names, the most wanted first."""
    first = [("z_image", dtype) for dtype in DTYPES]
    rest = [(family, dtype) for dtype in DTYPES for family in BLOCKS if family != "z_image"]
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for family, dtype in first:
        found[f"{family}, {dtype}"] = lambda f=family, d=dtype: transformer(f, d, tiny, rounds)  # type: ignore[misc]
    found["sdxl, keys and values"] = lambda: u_net(tiny, rounds)
    found["z_image, compiled"] = lambda: compiled(tiny, rounds)
    for family, dtype in rest:
        found[f"{family}, {dtype}"] = lambda f=family, d=dtype: transformer(f, d, tiny, rounds)  # type: ignore[misc]
    return found


def run(tiny: bool, rounds: int, limit: float, json_file: Path | None) -> dict[str, Any]:
    """All checks within `limit` seconds; figures are written after each."""
    load_pack()
    import comfy.model_management
    import torch

    start = time.monotonic()
    report: dict[str, dict[str, Any]] = {}
    for name, check in checks(tiny, rounds).items():
        begun = time.monotonic()
        if begun - start > limit:
            report[name] = {"left_out": "the time was up"}
            continue
        try:
            report[name] = check()
        except Exception as error:  # on a lent machine the other checks matter more than a clean end
            report[name] = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-2000:]}
        comfy.model_management.unload_all_models()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        report[name]["seconds"] = time.monotonic() - begun
        print(f"{name}: {report[name].get('error', 'done')} ({report[name]['seconds']:.0f} s)", flush=True)
        if json_file is not None:
            json_file.write_text(json.dumps(report, indent=1) + "\n")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_checks")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=420, help="after which no check begins (default: 420)")
    parser.add_argument("--tiny", action="store_true", help="tiny widths, to see that everything runs")
    said = parser.parse_args()
    print(json.dumps(run(said.tiny, said.rounds, said.seconds, said.json), indent=1))


if __name__ == "__main__":
    main()
