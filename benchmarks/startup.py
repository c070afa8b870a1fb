"""How much longer ComfyUI takes to start with this pack than with a pack that does nothing.

Each start is a process of its own: ComfyUI's modules, its own extra nodes, then one pack by ComfyUI's loader. Starts
with one and the other pack alternate, and the processor's time counts, which other programs disturb less than the
clock's.
`python -m benchmarks.startup --starts 10 --json FILE`; needs a ComfyUI (COMFYUI_PATH, or the one around this folder).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from run import ROOT, find_comfyui

from .timing import ratio_of_medians

START = """
import asyncio, json, sys, time
sys.path.insert(0, sys.argv[1])
import comfy.cli_args
comfy.cli_args.args.cpu = True
import execution, nodes, server
asyncio.run(nodes.init_builtin_extra_nodes())
before = time.process_time()
loaded = asyncio.run(nodes.load_custom_node(sys.argv[2]))
print(json.dumps({"loaded": loaded, "pack": time.process_time() - before, "start": time.process_time()}))
"""
NOTHING = "NODE_CLASS_MAPPINGS = {}\n"


def start(comfyui: Path, pack: Path, base: Path) -> dict[str, float]:
    """Seconds of the processor that one start took, `start`, and the `pack` in it."""
    command = [sys.executable, "-c", START, str(comfyui), str(pack)]
    # Byte code is kept, as ComfyUI does
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["OMP_NUM_THREADS"] = "1"
    result = subprocess.run(command, cwd=base, capture_output=True, text=True, env=environment)
    figures = json.loads(result.stdout.splitlines()[-1]) if result.returncode == 0 else {}
    if not figures.get("loaded"):
        raise RuntimeError(f"ComfyUI could not load {pack}:\n{result.stderr}")
    return figures


def measure(comfyui: Path, starts: int) -> dict[str, dict[str, float]]:
    """What the pack `adds` in seconds, and the `whole` start as a ratio to that with a pack that does nothing."""
    with tempfile.TemporaryDirectory() as folder:
        nothing = Path(folder) / "nothing"
        nothing.mkdir()
        (nothing / "__init__.py").write_text(NOTHING, encoding="utf-8")
        for pack in (ROOT, nothing):  # once unmeasured: byte code is written, files are read from the disk
            start(comfyui, pack, Path(folder))
        runs = [[start(comfyui, pack, Path(folder)) for pack in (ROOT, nothing)] for _ in range(starts)]
    adds = np.array([ours["pack"] - theirs["pack"] for ours, theirs in runs])
    rng = np.random.default_rng(0)
    low, high = np.percentile([np.median(rng.choice(adds, starts)) for _ in range(2000)], [2.5, 97.5])
    whole = np.array([[one["start"] for one in both] for both in runs])
    return {
        "adds": {"seconds": float(np.median(adds)), "low": float(low), "high": float(high), "n": starts},
        "whole": ratio_of_medians(whole[:, 0], whole[:, 1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--starts", type=int, default=10, help="starts with each of both packs (default: 10)")
    parser.add_argument("--json", type=Path, help="write the figures there, for machines")
    arguments = parser.parse_args()
    comfyui = find_comfyui(os.environ, ROOT, Path.home())
    if comfyui is None:
        sys.exit("No ComfyUI found: set COMFYUI_PATH to its folder.")
    figures = measure(comfyui, arguments.starts)
    adds, whole = figures["adds"], figures["whole"]
    print(f"The pack adds {adds['seconds']:.3f} s to a start (95 %: {adds['low']:.3f} to {adds['high']:.3f}),")
    print(f"which then takes {whole['ratio']:.3f} times as long ({whole['low']:.3f} to {whole['high']:.3f}).")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
