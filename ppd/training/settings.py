"""How a user adapter is trained: settings with their defaults, from a file and the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..limits import number, parsed, whole
from ..messages import quoted

MOST = 10**9
NUMBERS = {
    "distillation_steps": (0, "of self-distillation before them, in which it learns from the checkpoint's words"),
    "steps": (0, "of user-DPO, in which it learns from picks"),
    "batch": (1, "pairs that are in memory at once"),
    "accumulate": (1, "batches that make a step"),
    "rank": (1, "of a low-rank adapter: how much it can hold"),
    "seed": (0, "of everything random"),
    "people": (2, "simulated to train on"),
    "measured_people": (2, "others, simulated to measure on at the end"),
    "strength_pictures": (0, "painted at each of up to eight strengths to find which is to be 1; 0: as it was trained"),
    "most_pairs": (1, "of a set of many people that are read, the first ones"),
    "pictures_every": (1, "steps between two sheets of pictures"),
    "patience": (1, "end user-DPO early after so many steps without a better held-out figure"),
}
"""Whole numbers: the least, and what they are."""
KINDS = ("low_rank", "cross_attention")
PICKED = 0.6
"""Share of pairs in which people pick the personal picture rather than the plain one, at strength 1; people who are
asked the same twice agree with themselves on .8."""


@dataclass(frozen=True)
class Objective:
    """beta: of mean errors; None is BETA_PER_NUMBER for each number of a latent.
    steered_beta: beta is set for each batch, so that sigmoid(-logit) is GRADIENT_FACTOR at its mean |margin|.
    user_dropout: share of picks that are the population user's.
    true_noise: pictures are noised along the noise that they were painted from, where it is known.
    safeguard: mu of Diffusion-SDPO (PairErrors.safeguarded); None is off.
    soft_labels: a pick counts by how sure it is, where that is known (a simulated person's, a data set's labels).
    contrast: weight of -logsigmoid(logit under one's own u - logit under another's), of picks with no soft label.
    """

    beta: float | None = None
    steered_beta: bool = False
    user_dropout: float = 0.1
    true_noise: bool = False
    safeguard: float | None = None
    soft_labels: bool = True
    contrast: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """For an adapter's file."""
        return asdict(self)


@dataclass(frozen=True)
class Settings:
    """How an adapter is trained. `kind` is "low_rank" or "cross_attention", None for the family's own; `accumulate`
    batches make a step; `people` are simulated to train on, and `measured_people` others say what came of it. Of a set
    of many people's pairs the first `most_pairs` are read: tower and VAE see each picture once before training begins.
    Every `pictures_every` steps there are new pictures to look at. At the end `strength_pictures` at each of up to
    eight strengths tell which is to be 1. Preferences end early where what is personal has not risen for `patience`
    steps.
    """

    distillation_steps: int = 0
    steps: int = 400
    batch: int = 8
    accumulate: int = 2
    learning_rate: float = 5e-4
    end_percent: float = 0.8
    kind: str | None = None
    rank: int = 16
    seed: int = 0
    people: int = 1000
    measured_people: int = 100
    strength_pictures: int = 32
    most_pairs: int = 20_000
    pictures_every: int = 100
    patience: int = 300
    objective: Objective = field(default_factory=Objective)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """What `train adapter` takes."""
    base = parser.add_argument_group("the checkpoint")
    base.add_argument("--base", type=Path, help="checkpoint file, or diffusion model with --text-encoder and --vae")
    base.add_argument("--text-encoder", type=Path, nargs="+", default=[], help="of a diffusion model: its files")
    base.add_argument("--text-type", default="stable_diffusion", help="what Load CLIP calls its type: qwen_image, flux")
    base.add_argument("--vae", type=Path, help="of a diffusion model")
    base.add_argument("--comfyui", type=Path, help="ComfyUI's folder (default: COMFYUI_PATH, or the one around us)")
    base.add_argument("--folders", type=Path, help="JSON of more model folders by kind, such as clip_vision")

    data = parser.add_argument_group("what it learns from")
    data.add_argument("--studies", type=Path, help="folder that Paint Studies made with this checkpoint")
    data.add_argument("--encoder", type=Path, help="folder of the taste encoder that was made of them")
    data.add_argument("--pairs", type=Path, nargs="+", default=[], help="preference sets of real people, beside them")
    data.add_argument("--licence", default="", help="of the pairs, stated in the report and in the adapter's file")
    data.add_argument("--solo", action="store_true", help="for the one person of --pairs: half of each batch is theirs")
    data.add_argument("--cache", type=Path, help="folder that keeps what the tower saw")

    parser.add_argument("--out", type=Path, required=True, help="the file: models/user_adapters/<name>.safetensors")
    parser.add_argument("--work", type=Path, help="folder of the run (default: <out>.training)")
    parser.add_argument("--made", type=Path, help="folder of pictures' latents and prompts' states (default: --work)")
    parser.add_argument("--config", type=Path, help="JSON file with any of the settings below, by their names")
    parser.add_argument("--dry-run", action="store_true", help="check everything, take a few steps, say what it costs")
    parser.add_argument("--stop", action="store_true", help="ask the run in --work to stop after its step")
    parser.add_argument("--vram", type=float, help="GB that may be used: the batch is halved until it fits")

    how = parser.add_argument_group("settings")
    for name, (_, what) in NUMBERS.items():
        default = getattr(Settings(), name)
        how.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"{what} (default: {default})")
    for name, what in (("learning_rate", "of AdamW"), ("end_percent", "share of the sampling that is personal")):
        default = getattr(Settings(), name)
        how.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=f"{what} (default: {default:g})")
    how.add_argument("--kind", choices=KINDS, help="where the adapter acts (default: the family's own)")
    how.add_argument("--gradient-checkpointing", action="store_true", help="a third slower, with far less memory")


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings of --config, and over them those of the command line."""
    said = {} if arguments.config is None else parsed(arguments.config.name, arguments.config.read_bytes())
    if not isinstance(said, dict):
        raise ValueError(f'{arguments.config.name} holds no names and values: write {{"steps": 400}}, for example.')
    if not isinstance(told := said.pop("objective", {}), dict):
        raise ValueError(f'Expected names and values as objective, such as {{"contrast": 1.0}}, got {quoted(told)}.')
    objective = checked(Objective, told, "objective")
    settings = checked(Settings, {**said, "objective": Objective(**objective)}, "settings")
    given = {field.name: getattr(arguments, field.name, None) for field in fields(Settings)}
    chosen = Settings(**{**settings, **{name: value for name, value in given.items() if value is not None}})
    check_settings(chosen)
    return chosen


def check_settings(settings: Settings) -> None:
    """ValueError where a value is of the wrong kind or size."""
    for name, (least, _) in NUMBERS.items():
        whole(name, getattr(settings, name), least, MOST)
    if not settings.steps and not settings.distillation_steps:
        raise ValueError("Expected steps or distillation_steps above 0: with none of both nothing is learned.")
    number("learning_rate", settings.learning_rate, 1e-9, 1)
    number("end_percent", settings.end_percent, 1e-3, 1)
    if settings.kind not in (None, *KINDS):
        raise ValueError(f"Expected {' or '.join(KINDS)} as kind, got {quoted(settings.kind)}.")
    objective = settings.objective
    for name in ("steered_beta", "true_noise", "soft_labels"):
        if not isinstance(value := getattr(objective, name), bool):
            raise ValueError(f"Expected true or false as the objective's {name}, got {quoted(value)}.")
    number("the objective's user_dropout", objective.user_dropout, 0, 1)
    number("the objective's contrast", objective.contrast, 0, MOST)
    for name in ("beta", "safeguard"):
        if (value := getattr(objective, name)) is not None:
            number(f"the objective's {name}", value, 0, MOST)


def checked(kind: type, said: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Names and values that a dataclass takes."""
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(said) - set(known))
    if unknown:
        raise ValueError(f"There is no {quoted(unknown[0])} among the {what}: use {', '.join(known)}.")
    return dict(said)
