"""`python -m benchmarks.all`: measures what docs/benchmarks.md tells, and writes its tables.

Each run is a process of its own. Its figures lie in docs/figures, with its command, day, duration and machine. What is
there is not measured again unless `--again` says so: then the figures whose intervals lie apart in the two runs are
told. So it may be stopped at any time and goes on where it was. The page's prose is written by hand; what lies between
`<!-- table: NAME -->` or `<!-- runs: NAME -->` and `<!-- end -->` is written here. `--check` only compares.

Capitals in a command stand for what is not in this repository (`--given PEER=folder`); without it that run is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from .tables import TABLES, Runs

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
FIGURES = ROOT / "docs" / "figures"
BLOCK = re.compile(r"<!-- (table|runs): (.+?) -->\n.*?<!-- end -->", re.DOTALL)

SELF, LEAST, PLAIN = "self_training --world", "self_training --least --world", '"plain user-DPO" "soft labels"'
SWITCHES = '"true noise" "steered beta" safeguard "no user dropout"'
RUNS = {
    "few_picks-pocket": "few_picks --world pocket --pictures 2",
    "few_picks-flow": "few_picks --world pocket-flow --pictures 2",
    "asking-accuracy": "asking --parts accuracy",
    "asking-painted": "asking --parts painted",
    "asking-duels": "asking --parts duel --pictures 3",
    "looks": "looks --people 24",
    "choices": "choices --work .work",
    "sorting": "sorting --people 100",
    "encoders-efficientnet": "encoders --people PEOPLE --tower efficientnet-lite0 --draws 10",
    "encoders-pocket": "encoders --people PEOPLE --tower pocket --draws 10",
    "encoders-simulated": "encoders --people pocket-kind --tower pocket --simulated 150 300",
    "text_taste": "text_taste --world pocket-flow --adapter weights/adapters/pocket-flow.safetensors",
    "adapter_kinds-flow": "adapter_kinds --world pocket-flow --steps 120",
    "adapter_kinds-pocket": "adapter_kinds --world pocket --steps 120 --rates 1e-3",
    "self_training-flow": f"{LEAST} pocket-flow --arms {PLAIN} contrast",
    "self_training-flow-switches": f"{LEAST} pocket-flow --arms {SWITCHES}",
    "self_training-flow-all": f"{LEAST} pocket-flow --arms all",
    "self_training-flow-distillation": f"{LEAST} pocket-flow --arms distillation",
    "self_training-flow-distillation-400": f"{LEAST} pocket-flow --arms distillation --steps 400 --rate 2e-3",
    "self_training-pocket": f"{LEAST} pocket --arms {PLAIN} contrast",
    "self_training-pocket-switches": f"{LEAST} pocket --arms {SWITCHES} all",
    "self_training-flow-240": f'{LEAST} pocket-flow --steps 240 --arms "soft labels"',
    "self_training-pocket-240": f'{LEAST} pocket --steps 240 --arms "soft labels"',
    "self_training-pocket-480": f'{LEAST} pocket --steps 480 --arms "soft labels"',
    **{
        f"self_training-{short}-{name}": f'{LEAST} {world} --steps 240 --arms "soft labels" --encoder shipped{more}'
        for name, more in (("unshared", " --nothing-shared"), ("shipped", ""))
        for short, world in (("flow", "pocket-flow"), ("pocket", "pocket"))
    },
    **{
        f"asked_training-{short}-{encoder}": f'{SELF} {world} --arms "soft labels" --asked {more} --pictures 2'
        for short, world, encoder, more in (
            ("flow", "pocket-flow", "shipped", "--steps 240 --encoder shipped"),
            ("flow", "pocket-flow", "own", "--steps 240"),
            ("pocket", "pocket", "shipped", "--steps 240 --encoder shipped"),
            ("pocket", "pocket", "own", "--steps 480"),
        )
    },
    "asked_training-flow-gains": f"{SELF} pocket-flow --arms 'soft labels' --asked --gains --steps 240 "
    "--encoder shipped",
    "asked_training-flow-480": f'{LEAST} pocket-flow --arms "soft labels" --asked --steps 480 --pictures 4',
    **{
        f"asked_training-{short}-{steps}": f"{LEAST} {world} --arms {PLAIN} --asked --steps {steps} --pictures 2"
        for short, world, steps in (
            *(("flow", "pocket-flow", steps) for steps in (60, 120, 240)),
            ("pocket", "pocket", 60),
        )
    },
    "training": "training --script SCRIPT --libraries LIBRARIES --rounds 2 --steps 2 12 --parts speed",
    "training-scaling": "training --parts scaling --steps 2 10",
    "training-steps": "training --parts steps --people 300",
    "pair_index-rows": "pair_index --rows 1000000",
    "pair_index-pictures": "pair_index --rows 10000 --picture-bytes 95000",
    "sampling-sd15": "sampling --family sd15 --steps 1 --peer PEER",
    "sampling-sdxl": "sampling --family sdxl --steps 1 --rounds 6 --peer PEER",
    "embedding": "embedding --rounds 6",
    **{
        f"sampling-{family}-{dtype}": f"sampling --family {family} --dtype {dtype} --size 128 --rounds 3 --ranks 16"
        for family in ("qwen_image", "z_image", "flux", "krea2")
        for dtype in ("bf16", "int8")
    },
    "startup": "startup --starts 5",
}
"""Commands by the names of their results."""
ONE_CORE = "sampling"
"""What a person costs is the processor's time on one core."""


def machine() -> dict[str, Any]:
    """What measures: its processor, cores and versions, and how many processes wanted it when the run began."""
    import torch

    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", cpu.read_text(), re.MULTILINE) if cpu.exists() else []
    graphics = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        **graphics,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def command(name: str) -> str:
    """As one would type it."""
    threads = "OMP_NUM_THREADS=1 " if name.startswith(ONE_CORE) else ""
    return f"{threads}python -m benchmarks.{RUNS[name]}"


def measure(name: str, given: dict[str, str]) -> dict[str, Any]:
    """The result of a run; raises subprocess.CalledProcessError if it fails."""
    words = [given.get(word, word) for word in shlex.split(RUNS[name])]
    threads = {"OMP_NUM_THREADS": "1"} if name.startswith(ONE_CORE) else {}
    told, start = machine(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        call = [sys.executable, "-m", f"benchmarks.{words[0]}", *words[1:], "--json", str(file)]
        subprocess.run(call, cwd=ROOT, env=os.environ | threads, check=True)
        figures = json.loads(file.read_text())
    seconds = round(time.monotonic() - start)
    day = date.today().isoformat()
    return {"command": command(name), "measured": day, "seconds": seconds, "machine": told, "figures": figures}


def missing(name: str, given: dict[str, str]) -> list[str]:
    """What the run needs and was not given."""
    return [word for word in shlex.split(RUNS[name]) if word.isupper() and word not in given]


def write(result: dict[str, Any], file: Path) -> None:
    """Six digits of each number, and an interval on a line of its own: small, and told apart by `git diff`."""
    rounded = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.6g}"))
    lines = re.sub(r"\{[^{}]*\}", lambda part: " ".join(part[0].split()), json.dumps(rounded, indent=1))
    file.parent.mkdir(exist_ok=True)
    file.write_text(lines + "\n", encoding="utf-8")


def results() -> dict[str, dict[str, Any]]:
    """What was measured so far, in the order of RUNS."""
    files = {name: FIGURES / f"{name}.json" for name in RUNS}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}


def apart(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Figures of two runs whose intervals do not overlap."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return
    if {"low", "high"} <= old.keys() & new.keys():
        if old["low"] > new["high"] or new["low"] > old["high"]:
            yield f"{path}: {old['low']:.4g} to {old['high']:.4g}, now {new['low']:.4g} to {new['high']:.4g}"
        return
    for name in old.keys() & new.keys():
        yield from apart(old[name], new[name], f"{path}, {name}".removeprefix(", "))


def told(found: dict[str, dict[str, Any]], names: str) -> str:
    """The commands of the runs whose names begin so, with their day, duration and machine."""
    lines = []
    for name, result in found.items():
        if name.startswith(tuple(names.split(", "))):
            took = f", {max(1, round(result['seconds'] / 60))} min" if result["seconds"] else ""
            lines.append(f"{result['command']}  # {result['measured']}{took}, {described(result['machine'])}")
    return "\n".join(["```", *lines, "```"])


def described(machine: dict[str, Any]) -> str:
    """Where it was measured, in a few words."""
    where = machine.get("gpu") or f"{machine['cores']} cores of {machine['cpu']}"
    return where + (f", torch {machine['torch'].partition('+')[0]}" if "torch" in machine else "")


def page(text: str, found: dict[str, dict[str, Any]]) -> str:
    """The page with its blocks written anew. Raises KeyError if a table lacks a run."""
    figures: Runs = {name: result["figures"] for name, result in found.items()}

    def block(match: re.Match[str]) -> str:
        kind, name = match.groups()
        inside = TABLES[name](figures) if kind == "table" else told(found, name)
        return f"<!-- {kind}: {name} -->\n{inside}\n<!-- end -->"

    return BLOCK.sub(block, text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.all")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="runs whose names begin so (default: all)")
    parser.add_argument("--again", action="store_true", help="also those whose figures are there")
    parser.add_argument("--given", nargs="+", default=[], metavar="WORD=PATH", help="what commands name in capitals")
    parser.add_argument("--check", action="store_true", help="measure nothing, compare the page with the figures")
    arguments = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    if arguments.check:
        if page(text, results()) != text:
            sys.exit("docs/benchmarks.md is not what docs/figures say: run `python -m benchmarks.all`.")
        return
    given = dict(pair.split("=", 1) for pair in arguments.given)
    failed = [name for name in RUNS if _wanted(name, arguments) and not _run(name, given)]
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), results()), encoding="utf-8")
    if failed:
        sys.exit(f"No figures of {', '.join(failed)}.")


def _wanted(name: str, arguments: argparse.Namespace) -> bool:
    asked = arguments.only is None or name.startswith(tuple(arguments.only))
    return asked and (arguments.again or not (FIGURES / f"{name}.json").exists())


def _run(name: str, given: dict[str, str]) -> bool:
    """Measures, compares and keeps; whether it could."""
    if lacking := missing(name, given):
        print(f"{name} is left out: give {' and '.join(f'{word}=...' for word in lacking)}", flush=True)
        return False
    try:
        result = measure(name, given)
    except subprocess.CalledProcessError as error:
        print(f"{name} ended with {error.returncode}", flush=True)
        return False
    before = results().get(name)
    write(result, FIGURES / f"{name}.json")
    print(f"{name}: {result['seconds']} s", flush=True)
    for figure in apart(before["figures"], result["figures"]) if before else ():
        print(f"  apart from the run before: {figure}", flush=True)
    return True


if __name__ == "__main__":
    main()
