"""Trainings as processes of their own, started, watched and stopped by the files of a folder alone.

    run.json       the command, its process and when it began        progress.json, log.csv     of the loop (journal.py)
    log.txt        all that it said                                  sheet.png, report.*        of its end (run.py)
    result.json    its figures: there once it has ended well         STOP                       asks it to end

So whoever started it may end, and whoever looks at it later knows as much.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ..files import write_file
from ..packages import needed_package
from .control import STOP
from .costs import SPENT, Costs
from .report import sentences
from .settings import Settings

PACK = Path(__file__).resolve().parents[2]
RUN, LOG, RESULT, PROGRESS = "run.json", "log.txt", "result.json", "progress.json"
INPUTS = "inputs.json"
"""What the weights come of (run.py)."""
LATENTS, PICTURES, TEXTS = "latents", "pictures", "texts"
"""The folders in it of real people's pictures as the base's latents, of those that were no files, and of prompts as the
base's text encoder reads them."""
STRENGTH = "strength.json"
"""How often pictures at each strength would be picked (strength.py)."""
MADE = ("*.pt", "*.csv", "sheet.png", "report.*", PROGRESS, RESULT, SPENT, STRENGTH)
BEGIN = "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module('ppd', run_name='__main__')"
"""`python -m ppd` also where Python heeds neither its folder nor PYTHONPATH, as ComfyUI's portable one. Our folder
comes last, since its nodes are not ComfyUI's."""
FREE = {"batch", "accumulate", "gradient-checkpointing", "cache", "folders"}
"""Options that a half-done training may change: how it fits into memory, and where things lie."""
ACTIVE = ("preparing", "training", "measuring", "stopping")
SAME_START = 2.0
"""Seconds between two readings of when a process began, which follow the clock."""
TAIL = 1 << 14
"""Bytes of a log's end that are read."""
ERROR = re.compile(r"(?:^|: )error: (.+)")


@dataclass(frozen=True)
class State:
    """How a training stands.

    state: "new" before any start, one of ACTIVE, "stopped" (all is saved), "finished", "failed" (`message` says why),
        or "died" (its process went without a word: what it saved last is there).
    step, of: of both parts together · seconds_left: of them, None while that is unknown · figures: running means ·
    measured: 0..1, how far measuring is · result: figures of a finished one · started: seconds since 1970.
    """

    state: str = "new"
    message: str = ""
    step: int = 0
    of: int = 0
    seconds_left: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
    measured: float = 0.0
    result: dict[str, Any] | None = None
    started: float = 0.0

    @property
    def is_active(self) -> bool:
        """Whether its process runs."""
        return self.state in ACTIVE

    def report(self) -> str:
        """What a finished training, or rehearsal, tells in words; empty for others."""
        if self.result is None:
            return ""
        return "\n".join(sentences(self.result)) if self._is_trained else Costs(**self.result).report()

    def worth(self) -> dict[str, Any] | None:
        """Of a finished training: `own`, `anothers` and `personal`, their difference, in 0..1, as measured on so many
        `people`, real ones where there are enough."""
        held_out = (self.result or {}).get("held_out", {})
        kind = next((kind for kind in ("real", "simulated") if held_out.get(kind)), None)
        if kind is None:
            return None
        told = held_out[kind]
        means = {name: told[name]["mean"] for name in ("own", "anothers")}
        return {**means, "personal": told["own_minus_anothers"]["mean"], "people": told["people"], "kind": kind}

    def costs(self) -> dict[str, float] | None:
        """Of a finished rehearsal: what the training would take, in `seconds` and in `gigabytes` of memory."""
        if self.result is None or self._is_trained:
            return None
        costs = Costs(**self.result)
        return {"seconds": costs.seconds, "gigabytes": costs.peak_memory / 2**30}

    @property
    def _is_trained(self) -> bool:
        """Whether the result is a training's, and no rehearsal's: both tell of memory."""
        return self.result is not None and "held_out" in self.result


@dataclass(frozen=True)
class Training:
    """A training in its folder, which need not be there yet."""

    folder: Path

    def start(self, arguments: Sequence[str], *, comfyui: Path) -> None:
        """Begin `train adapter` with these arguments, or go on with what it saved; it outlives this process.

        ValueError where it runs already, or is half done with other arguments.
        """
        if self.state().is_active:
            raise ValueError(f"The training {self.folder.name!r} is running already: stop it first.")
        needs_training()  # here, since its own process could only log it
        self.check(arguments)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (RESULT, STOP):
            (self.folder / name).unlink(missing_ok=True)
        command = [sys.executable, "-u", "-c", BEGIN, str(PACK), "train", "adapter", *arguments]
        command += ["--work", str(self.folder), "--json", str(self.folder / RESULT)]
        started = time.time()
        environment = {**os.environ, "COMFYUI_PATH": str(comfyui), "PYTHONUTF8": "1"}
        with (self.folder / LOG).open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **_apart(),
            )
        threading.Thread(target=process.wait, daemon=True).start()  # else its end leaves a zombie
        began = _began(process.pid) or time.time()
        told: dict[str, Any] = {"arguments": list(arguments), "comfyui": str(comfyui), "command": command}
        told |= {"pid": process.pid, "began": began, "started": started}
        write_file(self.folder / RUN, json.dumps(told, indent=1).encode())

    def go_on(self) -> None:
        """Start again as it was started; ValueError where it never was."""
        told = read_json(self.folder / RUN)
        if not told:
            raise ValueError(f"There is no training {self.folder.name!r}: start it.")
        self.start(told["arguments"], comfyui=Path(told["comfyui"]))

    def stop(self) -> None:
        """Ask it to end after its step, saving all; nothing where it does not run."""
        if self.state().is_active:
            (self.folder / STOP).touch()

    def end(self, seconds: float) -> None:
        """Stop it, and kill it where it has not ended after so many seconds."""
        self.stop()
        end = time.monotonic() + seconds
        while (is_active := self.state().is_active) and time.monotonic() < end:
            time.sleep(0.1)
        if is_active:
            with suppress(psutil.NoSuchProcess):  # it may end by itself in the meantime
                process = psutil.Process(read_json(self.folder / RUN)["pid"])
                both = [*process.children(recursive=True), process]
                for one in both:
                    with suppress(psutil.NoSuchProcess):
                        one.kill()
                psutil.wait_procs(both, seconds)

    @property
    def is_begun(self) -> bool:
        """Whether it has learned anything."""
        return any(self.folder.glob("*.pt"))

    @property
    def is_half_done(self) -> bool:
        """Whether it would go on from what it has learned, and does not run."""
        state = self.state()
        return self.is_begun and not state.is_active and state.state != "finished"

    def clear(self) -> None:
        """Forget what a training that has ended has learned and measured, so that it begins anew."""
        for path in (found for made in MADE for found in self.folder.glob(made)):
            path.unlink()

    def forget(self) -> None:
        """Forget also how it was started, so that it is as new; what was made of pictures and prompts stays."""
        self.clear()
        (self.folder / RUN).unlink(missing_ok=True)

    def state(self) -> State:
        """How it stands."""
        told = read_json(self.folder / RUN)
        if not told:
            return State()
        progress = read_json(self.folder / PROGRESS)
        if progress.get("time", 0.0) < told["started"]:  # of an earlier start
            progress = {}
        is_stopped = progress.get("state") == "stopped"
        known = _steps(told["arguments"], progress) | {"started": told["started"]}
        known |= {"figures": progress.get("figures", {}), "measured": progress.get("measured", 0.0)}
        began = _began(told["pid"])
        if began is not None and abs(began - told["began"]) < SAME_START:
            return State(self._doing(progress, known.get("seconds_left") == 0), **known)
        result = read_json(self.folder / RESULT)
        if result:
            return State("finished", result=result, **known)
        if is_stopped:
            return State("stopped", **known)
        message = self._last_words()
        return State("failed" if message else "died", message, **known)

    def _doing(self, progress: Mapping[str, Any], is_over: bool) -> str:
        if (self.folder / STOP).exists() or progress.get("state") == "stopped":  # all but its process has ended
            return "stopping"
        if progress.get("state", "preparing") == "preparing":
            return "preparing"
        return "measuring" if is_over else "training"

    def _last_words(self) -> str:
        """The error that its log ends with; empty where it was cut off."""
        try:
            with (self.folder / LOG).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:  # somebody found it too large
            return ""
        lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
        if not lines:
            return ""
        if found := ERROR.search(lines[-1]):
            return found[1]
        return lines[-1] if any(line.startswith("Traceback (most recent") for line in lines) else ""

    def changed(self, arguments: Sequence[str]) -> list[str]:
        """Which of the settings that it was started with are others now."""
        one, other = _options(read_json(self.folder / RUN).get("arguments", arguments)), _options(arguments)
        return sorted(name for name in {*one, *other} - FREE if one.get(name) != other.get(name))

    def check(self, arguments: Sequence[str]) -> None:
        """Refuse to go on from what was saved with others."""
        changed = self.changed(arguments)
        if changed and self.is_begun:
            raise ValueError(
                f"The training {self.folder.name!r} is half done with other settings ({', '.join(changed)}): give "
                "those back, choose another name, or begin anew."
            )


def needs_training() -> None:
    """ValueError where a package that trains is missing."""
    needed_package("accelerate", "accelerate", "Training")


def trainings(root: Path, below: str = ".") -> list[Training]:
    """All trainings in a folder, the one started last first; or those that lie `below` in their folders."""
    found = [Training(path.parent) for path in root.glob(f"*/{below}/{RUN}")]
    return sorted(found, key=lambda one: one.state().started, reverse=True)


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none, or half of one."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _began(pid: int) -> float | None:
    """When a process began, in seconds since 1970; None where it runs no more."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _options(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Values by their options' names."""
    found: dict[str, list[str]] = {}
    for argument in arguments:
        if argument.startswith("--"):
            values = found[argument[2:]] = []
        else:
            values.append(argument)
    return found


def _steps(arguments: Sequence[str], progress: Mapping[str, Any]) -> dict[str, Any]:
    """Where both parts together stand. The second takes about as long a step as the first, until it has been seen."""
    options = _options(arguments)
    first, second = (
        int(options.get(name.replace("_", "-"), [getattr(Settings(), name)])[0])
        for name in ("distillation_steps", "steps")
    )
    if "step" not in progress:
        return {"of": first + second}
    is_first = progress["name"].endswith("self-distillation")
    step, pace = progress["step"] + (0 if is_first else first), progress["seconds_per_step"]
    if progress["state"] == "finished" and not (is_first and second):  # perhaps early
        return {"step": step, "of": first + second, "seconds_left": 0.0}
    return {"step": step, "of": first + second, "seconds_left": pace and pace * (first + second - step)}


def _apart() -> dict[str, Any]:
    """What makes a process one that outlives us, and that hears no Ctrl-C of ours."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}
