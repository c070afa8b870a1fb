"""A user adapter for an artist's own checkpoint, from its studies to a file that the loader lists.

    studies + taste encoder -> picks of simulated people (materials.py), and people's own picks (real_picks.py)
      -> self-distillation (distillation.py) -> user-DPO (objective.py) -> its strength (strength.py)
      -> the adapter, its figures, pictures, a report

Everything of a run lies in its folder, for others to read while it goes on: `progress.json` and `log.csv` of the loop,
`sheet.png`, at the end `report.json` and `report.html`. A file STOP there ends it in good order.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..adapters import UserAdapter
from ..encoders.encoder import PosteriorEncoder
from ..encoders.features import text_side_of
from ..files import replacing, write_file
from ..messages import reason_of
from ..pairs import PreferencePair
from ..pictures import Picture
from ..studies import StudySet, model_name
from .adapter import WATCHED_PICKS, distil, train_adapter
from .base import Base
from .control import stop_if_asked
from .costs import Costs, Spent, bytes_below, forget_peak, peak_memory
from .distributed import gathered, processes, shared
from .materials import Materials, gather
from .measure import PICKS, measure
from .picks import MOST_REAL
from .prompt_loss import PROMPTS, prompt_loss
from .real_picks import LEAST_PAIRS, HeldOut, real_picks
from .report import SHEET, page, people_sheet
from .runs import INPUTS, LATENTS, PICTURES, PROGRESS, TEXTS, Training, read_json
from .settings import Settings
from .strength import GAINS, picked_by_gain, strength_of

log = logging.getLogger(__name__)

VALIDATE_EVERY = 50
WATCHED_SHARE = 0.75
"""Of the passes of a pick that is measured, those of one that is watched: without the population's."""
REHEARSED = 3
"""Steps of each stage that a rehearsal takes; the first one warms up, and is not timed."""
LEARNED_BY = ("distillation_steps", "learning_rate", "end_percent", "kind", "rank", "seed", "people", "objective")
"""Settings with which what a run has saved was learned: it goes on with no others, else its file would not tell the
truth."""


@dataclass(frozen=True)
class Run:
    """One training: `base` with its `studies` and their `encoder`, real people's `pairs`, others `held_out`
    to measure on, and the `folder` it lies in.

    `solo`: for the one person of the pairs, whose share is then that of many. `licence`: of the pairs, as their owner
    states it, for the report. `made`: folder of what is made of people's pictures and of prompts, the run's own where
    it is None; a rehearsal in a folder of its own leaves it to the training.
    """

    base: Base
    encoder: PosteriorEncoder
    studies: StudySet
    folder: Path
    settings: Settings = Settings()
    pairs: Sequence[PreferencePair] = ()
    held_out: HeldOut | None = None
    solo: bool = False
    licence: str = ""
    made: Path | None = None

    def train(self, out: Path) -> dict[str, Any]:
        """Train, write the adapter to `out` and the report to the folder, and return its figures.

        Stopped where somebody asks; a second call goes on from there.
        """
        self.check()
        self._go_on()
        is_main = processes().is_main_process
        forget_peak(self.base.denoiser.device)
        with Spent(self.folder, self.base.denoiser.device, writes=is_main) as spent:
            materials = self.materials()
            adapter = self._stages(materials, self.folder, self.settings, spent)
            strength = self._strength(materials, adapter)
            if strength is not None:
                adapter = adapter.scaled(strength["gain"])
            figures = {"strength": strength, **self._figures(materials, adapter)}
            if not is_main:
                return figures
            figures |= {"prompt_loss": self._prompt_loss(materials, adapter), **spent.told()}
        adapter.config = replace(adapter.config, training={**adapter.config.training, "report": figures})
        self._paint(materials, adapter)
        write_file(self.folder / "report.json", json.dumps(figures, indent=1).encode())
        write_file(self.folder / "report.html", page(out.stem, figures, "sheet.png").encode())
        adapter.save(out, torch.float16)  # after these, since who has it is not trained again
        del materials
        gc.collect()  # Windows deletes no file that is mapped
        for path in self._made:
            shutil.rmtree(path, ignore_errors=True)
            if path.exists():
                log.warning("%s is not needed any more, and could not be deleted.", path)
        return figures

    def rehearse(self) -> Costs:
        """Read every picture and pair, take REHEARSED real steps of each stage, and say what the whole would cost.

        Where real people's picks are mixed in, which may take a second pass, the preferences' steps are taken on
        simulated people's picks alone and on real ones alone: memory is that of the larger, time in their shares.
        """
        self.check()
        device, settings, folder = self.base.denoiser.device, self.settings, self.folder / "rehearsal"
        forget_peak(device)
        started = time.monotonic()
        materials = self.materials()
        everybody = materials.everybody
        shares = {0.0: 1 - everybody.real_share, 1.0: everybody.real_share}
        parts = [(REHEARSED, 0, everybody, 1.0)] * bool(settings.distillation_steps)
        for share, weight in shares.items():
            parts += [(0, REHEARSED, replace(everybody, real_share=share), weight)] * bool(settings.steps and weight)
        seconds, written, stepping = [0.0, 0.0], [0, 0], 0.0
        for distilled, preferred, picks, weight in parts:
            few, stage = replace(settings, distillation_steps=distilled, steps=preferred), int(distilled == 0)
            self._empty(folder)
            adapter = self._stages(replace(materials, everybody=picks), folder, few)
            told: dict[str, Any] = json.loads((folder / PROGRESS).read_text()) if processes().is_main_process else {}
            pace = shared(told)["seconds_per_step"]
            seconds[stage] += weight * pace
            written[stage] = bytes_below(folder)
            stepping += REHEARSED * pace
        self._empty(folder)
        read = time.monotonic() - started - stepping
        peak = max(gathered([peak_memory(device)]))  # of what must fit: the training does without pictures
        measuring = self._measuring_seconds(materials, adapter)
        real = np.arange(len(materials.picks), len(everybody))
        return Costs(
            pictures=self._painted,
            picks=len(materials.picks),
            real_people=everybody.real_people,
            real_pictures=len(np.unique(everybody.pictures(real))),
            real_picks=len(real),
            reading_seconds=read,
            distillation_seconds=seconds[0] * settings.distillation_steps,
            dpo_seconds=seconds[1] * settings.steps,
            peak_memory=peak,
            disk=sum(written) + sum(map(bytes_below, self._made)),
            batch=settings.batch,
            measuring_seconds=measuring,
        )

    def _measuring_seconds(self, materials: Materials, adapter: UserAdapter) -> float:
        """What figures and pictures will take, by a few of them."""
        settings, judged = self.settings, materials.held_out
        painted = SHEET * (1 + (settings.distillation_steps + settings.steps) // settings.pictures_every)
        painted += settings.strength_pictures * (1 + len(GAINS) // 2)  # it ends where a gain is enough
        measured = 0.0
        if judged is not None:
            painted += 2 * PROMPTS * (text_side_of(self.encoder.features) is not None)
            real = 0 if self.held_out is None else len({pair.user for pair in self.held_out.query})
            measured += PICKS * sum(min(settings.measured_people, of) for of in (judged.people, real))
        if materials.watched is not None:
            measured += WATCHED_SHARE * WATCHED_PICKS * math.ceil(settings.steps / VALIDATE_EVERY)
        prompts, u = materials.picks.prompts, materials.picks.embeddings[-1, :1]
        try:
            paint = _seconds(lambda: self.base.paint(prompts[0], 0, adapter, u))
        except torch.OutOfMemoryError:
            paint = 0.0  # there will be no pictures
        few = partial(measure, self.base.denoiser, adapter, materials.picks, people=2, batch=settings.batch)
        few()  # reads the prompts
        return painted * paint + measured * _seconds(few) / (2 * PICKS)

    def _empty(self, folder: Path) -> None:
        """Remove a folder, before any process goes on."""
        if processes().is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        processes().wait_for_everyone()

    def check(self) -> None:
        """Refuse studies of another model."""
        painted_by = self.studies.model
        if painted_by is not None and painted_by != self.base.signature:
            raise ValueError(
                f"The studies {self.studies.name!r} were painted by {model_name(painted_by)}, and the base is "
                f"{model_name(self.base.signature)}: give the checkpoint that painted them, or paint studies with this "
                "one."
            )

    def _go_on(self) -> None:
        """Refuse what was saved of a training on something else."""
        file, now = self.folder / INPUTS, self.inputs()
        then = json.loads(file.read_text()) if file.exists() and Training(self.folder).is_begun else now
        changed = [name for name in now if now[name] != then.get(name)]
        if changed:
            raise ValueError(
                f"What lies in {self.folder} was trained with other {', '.join(changed)}: choose another name "
                "for the adapter, or begin anew (the node has a button for it; else delete that folder)."
            )
        if processes().is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_file(file, json.dumps(now, indent=1).encode())

    def inputs(self) -> dict[str, Any]:
        """What the weights come of, by content."""
        painted = sorted((picture.prompt, picture.picture.digest) for picture in self.studies.pictures)
        place = {user: number for number, user in enumerate(dict.fromkeys(pair.user for pair in self.pairs))}
        picked = [
            (place[pair.user], pair.prompt, pair.chosen.digest, pair.rejected.digest, pair.outcome)
            for pair in self.pairs
        ]
        settings, prior, looks = asdict(self.settings), self.encoder.prior, self.encoder.looks
        known = [prior.mean, prior.covariance, *([] if looks is None else [looks.readings])]
        found = {
            "base": self.base.signature,
            "taste encoder": self.encoder.weight_hash,
            "population": _hash([one.tolist() for one in known]),
            "studies": _hash(painted),
            "pairs": _hash([picked, self.solo]),
            **{name: settings[name] for name in LEARNED_BY},
        }
        return json.loads(json.dumps(found))  # as a file has it

    def materials(self) -> Materials:
        """Picks of simulated people, and of real ones where there are enough."""
        settings = self.settings
        materials = gather(
            self.studies,
            self.encoder,
            count=settings.people,
            measured=settings.measured_people,
            seed=settings.seed,
        )
        options: dict[str, Any] = {
            "apart": materials.apart,
            "seed": settings.seed,
            "on_person": self._stop_while_reading,
        }
        real = real_picks(self.pairs, self.encoder, self._encode, self._latents, **options)
        if self.solo and (real is None or real.people > 1):
            raise ValueError(
                f"Training for one person takes {LEAST_PAIRS} picks or more, all of that person: give such pairs."
            )
        if real is None:
            return materials
        return replace(materials, everybody=materials.picks.with_real(real, MOST_REAL if self.solo else None))

    @property
    def _painted(self) -> int:
        """Studies that can be trained on."""
        return sum(picture.latent_file is not None for picture in self.studies.pictures)

    @property
    def _made(self) -> list[Path]:
        """What a training needs no more once it has ended."""
        return [(self.made or self.folder) / name for name in (LATENTS, PICTURES, TEXTS)]

    @property
    def _latents(self) -> Path:
        """Real people's pictures as this base's latents, which the next start of the run finds."""
        return (self.made or self.folder) / LATENTS / _hash(self.base.signature)[:12]

    def _stop_while_reading(self) -> None:
        stop_if_asked(self.folder, "reading pictures")

    def _measured(self, part: int, done: int, of: int) -> None:
        """Tell how far measuring is, a long work that may be stopped: strength, then simulated people, then others."""
        stop_if_asked(self.folder, "measuring")
        if processes().is_main_process:
            parts = 2 + (self.held_out is not None)
            told = read_json(self.folder / PROGRESS) | {"measured": (part + done / of) / parts, "time": time.time()}
            write_file(self.folder / PROGRESS, json.dumps(told).encode())

    def _encode(self, pictures: Sequence[Picture]) -> Tensor:
        """Latents of real people's pictures, a long work that may be stopped."""
        stop_if_asked(self.folder, "encoding pictures")
        return self.base.latents(pictures)

    def _paint(self, materials: Materials, adapter: UserAdapter) -> None:
        """Pictures of the adapter as it is, for people to look at; the training does without them where there is no
        room."""
        try:
            sheet = people_sheet(self.base, adapter, materials, self.encoder)
            with replacing(self.folder / "sheet.png") as partial:
                sheet.save(partial, "PNG")
        except (OSError, torch.OutOfMemoryError) as error:
            log.warning("There is no new sheet of pictures (%s).", reason_of(error))

    def _stages(
        self, materials: Materials, folder: Path, settings: Settings, spent: Spent | None = None
    ) -> UserAdapter:
        """Self-distillation, where it has steps, then user-DPO."""
        adapter = self.base.new_adapter(
            settings.kind,
            settings.rank,
            encoder=self.encoder.name,
            encoder_hash=self.encoder.weight_hash,
            embedding_dim=self.encoder.prior.dim,
            end_percent=settings.end_percent,
        )

        def after(averaged: UserAdapter, step: int) -> None:
            if spent is None:
                return stop_if_asked(self.folder, "rehearsing")
            spent.keep()
            if step % settings.pictures_every == 0:
                self._paint(materials, averaged)

        options: dict[str, Any] = {
            "on_step": after,
            "seed": settings.seed,
            "batch": settings.batch,
            "accumulate": settings.accumulate,
            "learning_rate": settings.learning_rate,
            "progress": folder / PROGRESS,
            "logs": folder,
        }
        if settings.distillation_steps:
            adapter = distil(
                self.base.denoiser,
                adapter,
                materials.picks,
                materials.people,
                materials.people.embeddings(self.encoder.prior.noise),
                materials.sides,
                folder / "distillation.pt",
                steps=settings.distillation_steps,
                name="1 of 2, self-distillation" if settings.steps else "self-distillation",
                **options,
            )
        if not settings.steps:
            return adapter
        return train_adapter(
            self.base.denoiser,
            adapter,
            materials.everybody,
            folder / "preferences.pt",
            steps=settings.steps,
            objective=settings.objective,
            fresh=not settings.distillation_steps,
            name="2 of 2, preferences" if settings.distillation_steps else "preferences",
            held_out=None if spent is None else materials.watched,
            validate_every=min(VALIDATE_EVERY, settings.steps),
            patience=settings.patience,
            **options,
        )

    def _strength(self, materials: Materials, adapter: UserAdapter) -> dict[str, Any] | None:
        """The gain that is to be strength 1, and how often pictures at each would be picked; None where that is not
        asked for, or for want of memory."""
        count = self.settings.strength_pictures
        if not count:
            return None
        # where too few prompts are held out, those that it was trained on
        people, picks = (
            (materials.watching, materials.watched) if materials.watched else (materials.people, materials.picks)
        )
        picked = picked_by_gain(
            self.base, adapter, people, picks, self.encoder, count, self.folder, partial(self._measured, 0)
        )
        if picked is None:
            return None
        return {"gain": strength_of(picked), "picked": {f"{gain:g}": share for gain, (share, _) in picked.items()}}

    def _prompt_loss(self, materials: Materials, adapter: UserAdapter) -> dict[str, Any] | None:
        """On prompts that training never saw; None where the tower reads no text, there are no such prompts, or no
        memory to paint in."""
        text_side, judged = text_side_of(self.encoder.features), materials.held_out
        if text_side is None or judged is None:
            return None
        prompts = judged.prompts[:PROMPTS]
        people = [judged.embeddings[-1, number % judged.people][None] for number in range(len(prompts))]
        try:
            plain, personal = [], []
            for seed, prompt in enumerate(prompts):
                stop_if_asked(self.folder, "measuring")
                plain.append(self.base.paint(prompt, seed))
                personal.append(self.base.paint(prompt, seed, adapter, people[seed]))
        except torch.OutOfMemoryError as error:  # which is no reason to lose what was trained
            log.warning("How near pictures stay to their prompts was not measured (%s).", reason_of(error))
            return None
        return prompt_loss(plain, personal, prompts, self.encoder.features, text_side)

    def _figures(self, materials: Materials, adapter: UserAdapter) -> dict[str, Any]:
        """What is known of the adapter: simulated people apart from real ones."""
        picks, denoiser = materials.everybody, self.base.denoiser
        real, others = None, self.held_out
        if others is not None:
            real = real_picks(
                others.support,
                self.encoder,
                self._encode,
                self._latents,
                queries_of=others.query,
                apart=materials.taught,
                on_person=self._stop_while_reading,
            )
        options: dict[str, Any] = {"people": self.settings.measured_people, "batch": self.settings.batch}
        measured = {"simulated": materials.held_out, "real": real}
        return {
            "base": self.base.signature,
            "encoder": self.encoder.name,
            "encoder_hash": self.encoder.weight_hash,
            "versions": {"ppd": __version__, "torch": torch.__version__},
            "licence": self.licence,
            "studies": {"pictures": self._painted, "looks": len(self.studies.looks)},
            "settings": asdict(self.settings),
            "real_people": {"people": picks.real_people, "picks": 0 if picks.real is None else int(picks.real.sum())},
            "held_out": {
                kind: None
                if held_out is None or held_out.people < 2
                else measure(denoiser, adapter, held_out, on_batch=partial(self._measured, part), **options)
                for part, (kind, held_out) in enumerate(measured.items(), 1)
            },
        }


def _seconds(work: Callable[[], object]) -> float:
    """What it takes once."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _hash(value: Any) -> str:
    return sha256(json.dumps(value).encode()).hexdigest()
