"""Studies: the artist's own checkpoint paints neutral prompts in many looks, or finished pictures are filed as such."""

from __future__ import annotations

import logging
import re
import shutil
import time
from hashlib import sha256
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import latent_preview
import nodes
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui
from PIL import Image, ImageOps

from ..ppd.hosts.comfyui_studies import Painter, Sampling, model_signature
from ..ppd.lexicon import OWN, Look, LookSide, prompt_lines, read_lexicon
from ..ppd.messages import duration
from ..ppd.pairs import counted
from ..ppd.pictures import Picture, PreferenceError
from ..ppd.studies import (
    Cell,
    StudySet,
    StudyWriter,
    continue_studies,
    disk_use,
    open_studies,
    plan,
)
from . import folders
from .announce import say
from .collect import two_pictures
from .sampling import SAMPLER, SCHEDULER, STEPS, sampler_inputs
from .sockets import CATEGORY, Studies

log = logging.getLogger(__name__)

PACK = "pack"
"""What the pack's lexicon is called where a file of the artist's could stand as well."""
OWN_NAMES = "own names"
SET = "my studies"
AHEAD = 8
"""Studies whose texts are encoded at once, so that text encoder and model are exchanged seldom."""
SHOWN = 64
SIDE = 256
GAP = 8


def _set_input() -> io.String.Input:
    return io.String.Input(
        "studies",
        default=SET,
        optional=True,
        tooltip="Name of the set, a folder in ComfyUI's datasets folder.",
    )


def _outputs() -> list[io.Output]:
    return [
        Studies.Output(display_name="studies", tooltip="The set, for nodes that learn from it."),
        io.Image.Output(
            display_name="pictures",
            tooltip=f"Up to {SHOWN} pairs to look at, each look once before any twice; its low side on the left.",
        ),
        io.String.Output(display_name="report", tooltip="What the set holds, and what this run added."),
    ]


class PPD_PaintStudies(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_PaintStudies",
            display_name="Paint Studies",
            category=CATEGORY,
            description="Lets a checkpoint paint neutral prompts in many looks, both sides of a look from one seed. "
            "Everything painted is kept: cancel when you like, and run again to go on.",
            search_aliases=["studies", "dataset", "taste encoder", "generate dataset", "looks", "style grid"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint that paints the studies."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                _set_input(),
                io.Int.Input(
                    "count",
                    default=510,
                    optional=True,
                    min=1,
                    max=100_000,
                    tooltip="Pairs of pictures in all, those that the set holds already counted. An encoder "
                    "needs five of each look: 510 are six of each of the 85.",
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    optional=True,
                    min=16,
                    max=nodes.MAX_RESOLUTION,
                    step=8,
                    tooltip="Width in pixels. The model's smallest good size is enough.",
                ),
                io.Int.Input(
                    "height",
                    default=512,
                    optional=True,
                    min=16,
                    max=nodes.MAX_RESOLUTION,
                    step=8,
                    tooltip="Height in pixels.",
                ),
                io.Int.Input(
                    "base_seed",
                    default=0,
                    optional=True,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="What all seeds are derived from. Another one adds other studies to the set.",
                ),
                *sampler_inputs(7.0, "The classifier-free guidance scale; 1 for turbo and other distilled models."),
                io.String.Input(
                    "negative",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="The negative prompt of every picture.",
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="Your own neutral prompts, one a line, without words of style. Empty takes the lexicon's.",
                ),
                io.Combo.Input(
                    "lexicon",
                    options=[PACK, *folders.lexicons()],
                    default=PACK,
                    optional=True,
                    tooltip="The pack's looks and prompts, or these with a file of yours on top: a name that ends in "
                    f"{folders.LEXICON_ENDING}, in ComfyUI's input or datasets folder.",
                ),
                io.String.Input(
                    "looks",
                    default="",
                    optional=True,
                    tooltip="Which looks to paint, by id or by category (medium, line, colour, light, contrast, "
                    "texture, detail, composition, mood, era), separated by commas. Empty paints all.",
                ),
                io.Boolean.Input(
                    "plain",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Also paint each prompt and seed without its look: three pictures instead of two.",
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, studies: str = SET, **constants: Any) -> str:
        return folders.studies_stamp(folders.studies_folder(studies))

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        clip: comfy.sd.CLIP | None,
        vae: comfy.sd.VAE,
        studies: str = SET,
        count: int = 510,
        width: int = 512,
        height: int = 512,
        base_seed: int = 0,
        steps: int = STEPS,
        cfg: float = 7.0,
        sampler_name: str = SAMPLER,
        scheduler: str = SCHEDULER,
        negative: str = "",
        prompts: str = "",
        lexicon: str = PACK,
        looks: str = "",
        plain: bool = False,
    ) -> io.NodeOutput:
        if clip is None:
            raise ValueError("The checkpoint has no text encoder: load one with a CLIP loader and connect it.")
        words = read_lexicon(*([] if lexicon == PACK else [folders.lexicon_file(lexicon)]))
        chosen = words.chosen(looks)
        cells = plan(chosen, prompt_lines(prompts) or words.prompts, count, base_seed)
        sampling = Sampling(width, height, steps, cfg, sampler_name, scheduler, negative)
        painter = Painter(model, clip, vae, sampling)
        folder = folders.studies_folder(studies)
        writer = continue_studies(folder, chosen, model_signature(model), sampling.as_json())
        sides = ("low", "high", "none") if plain else ("low", "high")
        work = [(cell, [side for side in sides if not writer.holds(cell.study, side)]) for cell in cells]
        todo = [(cell, missing) for cell, missing in work if missing]
        total = sum(len(missing) for _, missing in todo)
        check_disk(folder, painter, total)
        start = time.monotonic()
        paint_all(painter, writer, todo, Progress(model, total, steps, painter))
        found = open_studies(folder)
        seconds = time.monotonic() - start
        added = f"Painted now: {counted(total, 'picture')}"
        added += f" in {duration(seconds)}, {seconds / total:.1f} s each." if total else "; all were there."
        return shown(found, added)


class PPD_AddStudies(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_AddStudies",
            display_name="Add Studies",
            category=CATEGORY,
            description="Files finished pictures as studies: pairs that differ in one look alone, such as two LoRAs, "
            "two references or two settings of one seed.",
            search_aliases=["studies", "dataset", "own look", "compare loras"],
            is_output_node=True,
            inputs=[
                io.Image.Input("low", tooltip="Pictures of one side of the look."),
                io.Image.Input("high", tooltip="Pictures of the other side; picture i belongs to picture i of low."),
                _set_input(),
                io.Combo.Input(
                    "look",
                    options=[OWN_NAMES, *read_lexicon().looks],
                    default=OWN_NAMES,
                    optional=True,
                    tooltip="What differs between them: a look of the lexicon, or your own with the names below.",
                ),
                io.String.Input(
                    "low_name", default="", optional=True, tooltip="With own names: what the one side is called."
                ),
                io.String.Input(
                    "high_name", default="", optional=True, tooltip="With own names: what the other side is called."
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    optional=True,
                    tooltip="The prompt that the pictures were painted from, without words of the look.",
                ),
                io.Int.Input(
                    "seed",
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    optional=True,
                    force_input=True,
                    tooltip="The seed that both were painted from. Stored with them; not used otherwise.",
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        low: torch.Tensor,
        high: torch.Tensor,
        studies: str = SET,
        look: str = OWN_NAMES,
        low_name: str = "",
        high_name: str = "",
        prompt: str = "",
        seed: int | None = None,
    ) -> io.NodeOutput:
        pairs = pictures_of(low, high)
        chosen = own_look(low_name, high_name) if look == OWN_NAMES else read_lexicon().looks[look]
        folder = folders.studies_folder(studies)
        writer = continue_studies(folder, [chosen])
        added = 0
        for first, second in pairs:
            added += writer.add_finished(chosen, prompt, seed, first, second)
        there = f"; {len(low) - added} were there." if added < len(low) else "."
        return shown(open_studies(folder), f"Added now: {counted(added, 'pair')}{there}")


class Progress:
    """Tells browsers and the log how far the painting is: pictures, seconds each, time left."""

    def __init__(self, model: ModelPatcher, pictures: int, steps: int, painter: Painter) -> None:
        self.pictures, self.steps = pictures, steps
        self.bytes = size_of(painter, 1)
        self.bar = comfy.utils.ProgressBar(pictures * steps)
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self.start, self.done = time.monotonic(), 0
        self._say(f"{counted(pictures, 'picture')} to paint, about {gigabytes(pictures * self.bytes)}.")

    def step(self, step: int, foreseen: torch.Tensor) -> None:
        """After a step of the present picture, whose latent it foresees."""
        preview = self.previewer and self.previewer.decode_latent_to_preview_image("JPEG", foreseen)
        self.bar.update_absolute(self.done * self.steps + min(step, self.steps), preview=preview)

    def painted(self) -> None:
        """After a picture is kept."""
        self.done += 1
        each = (time.monotonic() - self.start) / self.done
        left = self.pictures - self.done
        to_go = f"about {duration(left * each)} and {gigabytes(left * self.bytes)} to go" if left else "all painted"
        self._say(
            f"{self.done} of {counted(self.pictures, 'picture')}, {each:.1f} s each, {to_go}.",
            log_it=self.done == 1 or self.done % max(1, self.pictures // 10) == 0,
        )

    def _say(self, text: str, log_it: bool = True) -> None:
        if log_it:
            log.info("Studies: %s", text)
        say(text)


def paint_all(painter: Painter, writer: StudyWriter, todo: list[tuple[Cell, list[str]]], progress: Progress) -> None:
    """Paint the missing sides of studies; every picture is kept before the next is begun."""
    for begin in range(0, len(todo), AHEAD):
        block = [(cell, side, *texts_of(cell, side, painter.sampling.negative)) for cell, side in sides_of(todo, begin)]
        painter.read(chain.from_iterable((text, negative) for _, _, text, negative in block))
        for cell, side, text, negative in block:
            image, latent, noise = painter.paint(text, negative, cell.seed, progress.step)
            writer.add(cell, side, Picture.from_tensor(image), latent, noise)
            progress.painted()


def sides_of(todo: list[tuple[Cell, list[str]]], begin: int) -> list[tuple[Cell, str]]:
    return [(cell, side) for cell, missing in todo[begin : begin + AHEAD] for side in missing]


def texts_of(cell: Cell, side: str, negative: str) -> tuple[str, str]:
    """Prompt and negative prompt of one side of a study."""
    asked = cell.look.side(side)
    return (cell.prompt, negative) if asked is None else (asked.on(cell.prompt), asked.on_negative(negative))


def check_disk(folder: Path, painter: Painter, pictures: int) -> None:
    """ValueError before anything is painted where it would not fit on the disk."""
    needed, free = size_of(painter, pictures), shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{counted(pictures, 'picture')} need about {gigabytes(needed)}, and the disk of {folder.name!r} has "
            f"{gigabytes(free)} free: make room, or lower count, width or height."
        )


def size_of(painter: Painter, pictures: int) -> int:
    """Bytes, about, that pictures of a painter take."""
    return disk_use(pictures, painter.sampling.width, painter.sampling.height, painter.empty.numel())


def pictures_of(low: torch.Tensor, high: torch.Tensor) -> list[tuple[Picture, Picture]]:
    """The pairs of two batches [n, H, W, C]; ValueError where one is no pair of pictures that differ."""
    if len(low) != len(high):
        raise ValueError(
            f"There are {len(low)} low and {len(high)} high pictures: give as many of the one as of the other."
        )
    pairs = []
    for number, (first, second) in enumerate(zip(low, high, strict=True), 1):
        try:
            pairs.append(two_pictures(first, second))
        except PreferenceError as error:
            raise ValueError(f"Pair {number} cannot be filed: {error}") from error
    return pairs


def own_look(low: str, high: str) -> Look:
    """A look by the artist's own names of its sides."""
    low, high = low.strip(), high.strip()
    if not low or not high or low == high:
        raise ValueError(
            f"Expected two names of an own look, got {low!r} and {high!r}: say what both sides are called."
        )
    name = re.sub(r"[^a-z0-9]+", "-", f"{low} {high}".lower()).strip("-")
    digest = sha256(f"{low}\n{high}".encode()).hexdigest()[:6]  # names that differ in other letters alone
    return Look(f"{OWN}-{name[:40].strip('-')}-{digest}".replace("--", "-"), OWN, *map(own_side, (low, high)))


def own_side(name: str) -> LookSide:
    return LookSide(name, name, "")


def shown(studies: StudySet, added: str) -> io.NodeOutput:
    """A node's outputs for a set."""
    report = f"{studies.report()}\n{added}"
    return io.NodeOutput(studies, contact_sheet(studies), report, ui=ui.PreviewText(report))


def contact_sheet(studies: StudySet) -> torch.Tensor:
    """Pairs as IMAGE [n, 256, 520, 3] in 0..1, the low side on the left; an empty one where there are none."""
    turns = zip_longest(*studies.by_look().values())
    pairs = [pair for turn in turns for pair in turn if pair is not None][:SHOWN]
    sheets = np.full((max(1, len(pairs)), SIDE, 2 * SIDE + GAP, 3), 0.12, dtype=np.float32)
    for sheet, pair in zip(sheets, pairs, strict=False):
        comfy.model_management.throw_exception_if_processing_interrupted()
        for left, entry in ((0, pair.low), (SIDE + GAP, pair.high)):
            fitted = ImageOps.pad(
                entry.picture.open(longest_side=4 * SIDE), (SIDE, SIDE), Image.Resampling.LANCZOS, color=(31, 31, 31)
            )
            sheet[:, left : left + SIDE] = np.asarray(fitted, dtype=np.float32) / 255
    return torch.from_numpy(sheets)


def gigabytes(size: float) -> str:
    """A size on the disk; small ones in megabytes."""
    size = max(size, 1e5)
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
