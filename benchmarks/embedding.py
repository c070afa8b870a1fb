"""`python -m benchmarks.embedding`: what it costs to read a person from four new pairs, in steps of SDXL.

In one ComfyUI, with random weights of full width: a taste encoder whose tower is ViT-H-14 on eight new pictures of 512
px; one CFG step of SDXL; and the encoder again on the same pictures, whose features are on disk by then. Figures are
medians over rounds with 95 % bootstrap intervals. The fewer pixels a step has, the more of them an embedding costs: a
step of fewer than SDXL's own 1024 px gives a ratio that is too large.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from .pocket_step import load_pack
from .sampling import full_model, no_steps, random_conditions
from .timing import device_name, median, sampling, seconds

PAIRS, SIDE, AGAIN = 4, 512, 9
DIMS = 48


def new_pairs(folder: Path, seed: int) -> list[Any]:
    """A preference set that nobody has seen: smooth shapes under fine grain, as PNG."""
    from ppd_pack.ppd.pairs import PreferencePair, read_pairs, write_pairs
    from ppd_pack.ppd.pictures import Picture

    rng = np.random.default_rng(seed)

    def picture() -> Any:
        shapes = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((SIDE, SIDE))
        grain = rng.integers(-8, 9, (SIDE, SIDE, 3))
        return Picture.from_image(Image.fromarray((np.asarray(shapes) + grain).clip(0, 255).astype(np.uint8)))

    write_pairs(folder, [PreferencePair("a boat", picture(), picture(), id=str(number)) for number in range(PAIRS)])
    return list(read_pairs(folder))


def vision_model() -> Any:
    """ComfyUI's CLIP vision model, ViT-H-14."""
    import comfy.clip_vision
    import torch

    model = comfy.clip_vision.ClipVisionModel(Path(comfy.clip_vision.__file__).with_name("clip_vision_config_h.json"))
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.normal_(0, 0.02)
    return model


def measure(size: int | None, rounds: int) -> dict[str, Any]:
    """embedding_vs_step, cached_milliseconds, and the milliseconds behind them."""
    load_pack()
    import comfy.model_management
    import comfy.samplers
    import torch
    from ppd_pack.ppd.encoders.encoder import PosteriorEncoder
    from ppd_pack.ppd.encoders.features import PictureFeatures
    from ppd_pack.ppd.encoders.population import PopulationPrior
    from ppd_pack.ppd.hosts.comfyui_towers import clip_vision_tower

    device = comfy.model_management.get_torch_device()
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    size = size or (512 if device.type == "cpu" else 1024)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        model = full_model("sdxl", dtype)
        tower = clip_vision_tower(vision_model())
        space: dict[str, Any] = {"center": torch.zeros(1024), "basis": torch.randn(1024, DIMS)}
        identity: dict[str, Any] = {"encoder": tower.name, "encoder_hash": tower.weight_hash}
        prior = PopulationPrior(torch.zeros(DIMS), torch.eye(DIMS), **space, **identity)
        conditions, noise = random_conditions("sdxl"), torch.randn(1, 4, size // 8, size // 8)
        sampler, nothing = comfy.samplers.sampler_object("euler"), comfy.samplers.KSAMPLER(no_steps)
        times: dict[str, list[float]] = {"new": [], "again": [], "step": []}
        for number in tqdm(range(-1, rounds), desc=f"SDXL, {size} px"):  # the first round warms up
            pairs = new_pairs(folder / str(number), 1 + number)
            features = PictureFeatures(tower, cache_dir=folder / "features", cache_size=0)
            read = partial(PosteriorEncoder(features, prior).encode, pairs)
            new, again = seconds(device, read), float(np.median([seconds(device, read) for _ in range(AGAIN)]))
            before, run = (seconds(device, sampling(model, conditions, noise, s, 1)) for s in (nothing, sampler))
            if number >= 0:
                for what, value in (("new", new), ("again", again), ("step", run - before)):
                    times[what].append(value * 1000)
    where = {"device": device_name(device)}
    cached = median(times["again"])
    report: dict[str, Any] = {
        "embedding_vs_step": median(list(np.array(times["new"]) / np.array(times["step"]))) | where,
        "cached_milliseconds": {"median": cached.pop("ratio")} | cached | where,
        "milliseconds": {what: float(np.median(values)) for what, values in times.items()},
    }
    settings = {"size": size, "rounds": rounds, "pairs": PAIRS, "pictures": f"{SIDE} px", "dtype": str(dtype)}
    return report | {"settings": settings}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedding")
    parser.add_argument("--size", type=int, help="pixels of SDXL's square (default: 1024, on a CPU 512)")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = measure(arguments.size, arguments.rounds)
    print(json.dumps(figures, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
