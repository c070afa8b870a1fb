"""`python -m benchmarks.pocket_step`: what a personalised step costs beside a plain one, in one ComfyUI run.

Needs a ComfyUI (COMFYUI_PATH or ~/comfy/ComfyUI) and the tracked weights. Plain and personal runs alternate; a round's
ratio is the personal run's time over the plain one's, the figure is the median with a 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def load_pack() -> Any:
    """The pack as ComfyUI loads it, in this process."""
    comfyui = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))
    if not (comfyui / "main.py").is_file():
        raise SystemExit(f"There is no ComfyUI at {comfyui}: set COMFYUI_PATH.")
    sys.path.insert(0, str(comfyui))
    sys.argv = sys.argv[:1]
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    return load_folder("ppd_pack", ROOT)


def load_folder(name: str, folder: Path) -> Any:
    """A node pack's folder as the module `name`."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules[name] = pack
    spec.loader.exec_module(pack)
    return pack


def measure(rounds: int, steps: int, batch: int) -> dict[str, Any]:
    """{ratio, low, high, n, device, steps, batch} of CFG sampling at 128 x 128 with the shipped adapter."""
    load_pack()
    import comfy.model_management
    import nodes
    import torch
    from ppd_pack.ppd.hosts.comfyui import apply_user, load_adapter
    from ppd_pack.ppd.pocket.comfyui import load_pocket
    from ppd_pack.ppd.user_embedding import UserEmbedding

    weights = ROOT / "weights"
    with torch.inference_mode():
        model, clip, _ = load_pocket(weights / "pocket_base.safetensors")
        adapter = load_adapter(weights / "adapters" / "pocket.safetensors")
        config = adapter.model.config
        u = torch.randn(1, config.embedding_dim, generator=torch.Generator().manual_seed(0))
        person = UserEmbedding(u=u, encoder=config.encoder, encoder_hash=config.encoder_hash, pairs=4, created="")
        personal = apply_user(model, adapter, [person])
        positive, negative = (
            clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a boat by a lake", "")
        )
        latent = {"samples": torch.zeros(batch, 4, 16, 16)}

        def seconds(patched: Any) -> float:
            start = time.perf_counter()
            nodes.common_ksampler(
                patched, 1, steps, 4.0, "euler", "normal", positive, negative, latent, disable_noise=False
            )
            return time.perf_counter() - start

        seconds(model), seconds(personal)
        ratios = []
        for i in range(rounds):
            order = (model, personal) if i % 2 else (personal, model)
            times = {id(patched): seconds(patched) for patched in order}
            ratios.append(times[id(personal)] / times[id(model)])
    rng = np.random.default_rng(0)
    drawn = [np.median(rng.choice(ratios, rounds)) for _ in range(2000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    device = str(comfy.model_management.get_torch_device())
    return {
        "ratio": float(np.median(ratios)),
        "low": float(low),
        "high": float(high),
        "n": rounds,
        "device": device,
        "steps": steps,
        "batch": batch,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pocket_step")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = {"step_vs_plain": measure(arguments.rounds, arguments.steps, arguments.batch)}
    print(json.dumps(figures, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
