"""From an empty folder to a picture for a person, in the real ComfyUI, on real classes of random weights.

    python -m benchmarks.end_to_end --family sd15 --folder NEW [--json FILE]

Files of a model (random_models.py) -> studies -> taste encoder -> picks, by the tab's routes -> training -> pictures of
two people who like opposite looks, of somebody without picks, and of nobody: by the template *train your own adapter*,
and once more by `python -m ppd train adapter` on the same files. Needs a ComfyUI (COMFYUI_PATH).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from ppd.hosts.comfyui_base import find_comfyui, use_comfyui
from ppd.lexicon import read_lexicon
from ppd.pair_index import held_out, key_of
from ppd.pairs import folded
from ppd.studies import StudySet, open_studies
from ppd.training.materials import HELD_OUT
from tests.server.conftest import ROOT, Prompt, Server, started

from .random_models import TEXT_TYPES, write_model
from .training_template import BY_TEMPLATE, ENCODER, STUDIES, Template

BY_COMMAND = "by the command line"
SIDES = {"fan": "high", "opposite": "low"}
"""Of the look that is told, what the two people like."""
WAIT = 3600
"""Seconds for one press of Run, and for one training."""


@dataclass(frozen=True)
class Work:
    """How much is done: prompts that are trained on and that are held out, both with every look, picks of a person, and
    the trainings' settings. Held-out prompts are painted after the template's training, which would measure itself on a
    hundred people; the command line's has `measured_people`, and `strength_pictures` at each strength."""

    trained: int = 12
    held_out: int = 4
    picks: int = 6
    distillation_steps: int = 20
    steps: int = 20
    batch: int = 2
    rank: int = 4
    people: int = 100
    measured_people: int = 10
    strength_pictures: int = 4


SETTINGS = ("distillation_steps", "steps", "batch", "rank")
"""That the node has as well as the command line."""
FEW = Work(trained=6, distillation_steps=10, steps=10, batch=1, measured_people=2, strength_pictures=1)
WORK = {"sd15": Work(), "sdxl": Work(batch=1, measured_people=4), "z_image": FEW, "qwen_image": FEW}


@dataclass
class Story:
    """What happened: seconds by stage, and figures; in a file, if there is one, after each stage."""

    family: str
    work: dict[str, int]
    file: Path | None
    seconds: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Tells that a stage begins, and keeps how long it took."""
        print(f"{self.family}: {name}", file=sys.stderr, flush=True)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)
        if self.file is not None:
            self.file.write_text(self.told(), encoding="utf-8")

    def told(self) -> str:
        """As JSON."""
        told = {name: getattr(self, name) for name in ("family", "work", "seconds", "figures")}
        return json.dumps(told, indent=1)


def prompts_of(work: Work) -> tuple[list[str], list[str]]:
    """Neutral prompts of the lexicon that a training learns from, and some that it never sees."""
    prompts = read_lexicon().prompts
    apart = held_out(np.array([key_of(folded(prompt)) for prompt in prompts], np.uint64), HELD_OUT)
    taught, judged = ([one for one, is_apart in zip(prompts, apart, strict=True) if is_apart == of] for of in (0, 1))
    return taught[: work.trained], judged[: work.held_out]


def pick(server: Server, studies: StudySet, look: str, side: str, count: int) -> str:
    """A new person, who likes one side of a look and skips what shows another look; their id."""
    wanted = {getattr(pair, side).picture.digest for pair in studies.pairs(look)}
    person = server.post("/ppd/people", {"name": f"{look} {side}", "request": uuid4().hex})["id"]
    server.post(f"/ppd/people/{person}/encoder", {"encoder": ENCODER, "request": uuid4().hex})
    picked = 0
    while picked < count and (question := server.get(f"/ppd/people/{person}/question")["question"]):
        verdict = next((which for which in ("first", "second") if question[which] in wanted), "skip")
        told = {"candidate": question["id"], "verdict": verdict, "request": uuid4().hex}
        server.post(f"/ppd/people/{person}/picks", told)
        picked += verdict != "skip"
    assert picked == count, f"{person} was asked {picked} times about {look}"
    return person


def wait(server: Server, name: str) -> dict[str, Any]:
    """How a training ended that the node started."""
    end, folder = time.monotonic() + WAIT, server.base / "user" / "__ppd" / "trainings" / name
    while (state := server.get(f"/ppd/trainings/{name.replace(' ', '%20')}", WAIT))["is_active"]:
        assert time.monotonic() < end, f"the training did not end: {state}"
        time.sleep(1)
    assert state["state"] == "finished", (folder / "log.txt").read_text()[-3000:]
    return json.loads((folder / "report.json").read_text())


def train_by_command(server: Server, files: dict[str, Path], family: str, work: Work) -> dict[str, Any]:
    """Trains on the same files once more; the report."""
    base = server.base
    out = base / "models" / "user_adapters" / f"{BY_COMMAND}.safetensors"
    options: dict[str, Any] = {
        "--base": files.get("checkpoints") or files["diffusion_models"],
        "--studies": base / "datasets" / STUDIES,
        "--encoder": base / "models" / "taste_encoders" / ENCODER,
        "--out": out,
        "--work": base / "training by the command line",
    }
    if family in TEXT_TYPES:
        options |= {"--text-encoder": files["text_encoders"], "--text-type": TEXT_TYPES[family], "--vae": files["vae"]}
    for name in (*SETTINGS, "people", "measured_people", "strength_pictures"):
        options[f"--{name.replace('_', '-')}"] = getattr(work, name)
    command = [sys.executable, "-m", "ppd", "train", "adapter", *(str(x) for both in options.items() for x in both)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr, timeout=WAIT)
    return json.loads((base / "training by the command line" / "report.json").read_text())


def told(report: dict[str, Any]) -> dict[str, Any]:
    """Of a training's report what is personal; None where too few prompts were held out."""
    measured = report["held_out"]["simulated"]
    if measured is None:
        return {"own": None, "anothers": None}
    assert measured["null_user_difference"] == 0.0
    return {name: round(measured[name]["mean"], 3) for name in ("own", "anothers")} | {"people": measured["people"]}


def free(server: Server) -> None:
    """Has the server drop its models: another process is to load them."""
    for _ in range(2):  # what is asked while it tidies up after a prompt is heard with the next
        time.sleep(5)
        server.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(5)


def paint(server: Server, template: Template, adapter: str, people: dict[str, str]) -> dict[str, float]:
    """Mean absolute differences from the base's picture, 0 to 255, of everybody's by an adapter; what must be the
    base's picture is so bit for bit, and the two people's differ from it and from each other."""

    def painted(prompt: Prompt) -> np.ndarray:
        (picture,) = server.pictures(server.run(prompt, WAIT)).values()
        return picture.astype(float)

    base = painted(template.plain())
    assert (painted(template.picture(adapter, people["fan"], 0.0)) == base).all(), "strength 0 is not the base"
    assert (painted(template.picture(adapter, people["nobody"])) == base).all(), "no picks are not the base"
    fan, opposite = (painted(template.picture(adapter, people[who])) for who in ("fan", "opposite"))
    pairs = {"fan": (fan, base), "opposite": (opposite, base), "one from the other": (fan, opposite)}
    differences = {name: round(float(abs(a - b).mean()), 3) for name, (a, b) in pairs.items()}
    assert min(differences.values()) > 0, differences
    return differences


def tell(server: Server, story: Story, work: Work, *, by_template_alone: bool) -> None:
    """The whole story, or without the command line."""
    family, datasets = story.family, server.base / "datasets"
    with story.stage("files"):
        files = write_model(family, server.base / "models")
    settings = {name: getattr(work, name) for name in SETTINGS}
    template = Template(server, family, settings)
    taught, apart = prompts_of(work)
    with story.stage("studies"):
        server.run(template.studies(taught), WAIT)
    with story.stage("encoder"):
        server.run(template.encoder(taught), WAIT)
    made = json.loads((server.base / "models" / "taste_encoders" / ENCODER / "encoder.json").read_text())
    studies = open_studies(datasets / STUDIES)
    kept = made["looks"]["names"]
    story.figures |= {"pictures": len(studies.pictures), "looks": kept, "picks": work.picks}
    with story.stage("picks"):
        people = {who: pick(server, studies, kept[0], side, work.picks) for who, side in SIDES.items()}
        people["nobody"] = server.post("/ppd/people", {"name": "nobody", "request": uuid4().hex})["id"]
    free(server)
    with story.stage("training by the template"):
        server.run(template.training())
        story.figures[BY_TEMPLATE] = told(wait(server, BY_TEMPLATE))
    with story.stage("pictures by the template"):
        story.figures[BY_TEMPLATE]["differences"] = paint(server, template, BY_TEMPLATE, people)
    if by_template_alone:
        return
    with story.stage("studies of held-out prompts"):
        server.run(template.studies(taught + apart), WAIT)
    free(server)
    with story.stage("training by the command line"):
        story.figures[BY_COMMAND] = told(train_by_command(server, files, family, work))
    with story.stage("pictures by the command line"):
        story.figures[BY_COMMAND]["differences"] = paint(server, template, BY_COMMAND, people)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--family", choices=WORK, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder, which gigabytes are written to")
    parser.add_argument("--json", type=Path, help="write the figures there, for machines")
    parser.add_argument("--by-template-alone", action="store_true", help="not by the command line, which takes as long")
    arguments = parser.parse_args()
    comfyui = find_comfyui()
    use_comfyui(comfyui)
    work = WORK[arguments.family]
    story = Story(arguments.family, asdict(work), arguments.json)
    with started(comfyui, arguments.folder) as server:
        tell(server, story, work, by_template_alone=arguments.by_template_alone)
    print(story.told())


if __name__ == "__main__":
    main()
