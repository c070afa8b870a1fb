"""Training a user adapter for an own checkpoint: starts `python -m ppd train adapter` beside ComfyUI, and shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image

from ..ppd.encoders.encoder import TasteEncoder
from ..ppd.messages import duration
from ..ppd.studies import StudySet
from ..ppd.training.runs import State, Training, needs_training
from ..ppd.training.settings import KINDS, Settings
from . import folders, people
from .encoders import encoder_folder, taste_encoders
from .making import NONE, chosen_studies
from .people import PERSON
from .sockets import CATEGORY, Studies
from .training_runs import DRY_RUN, FOLDERS_FILE, begin, drop_models, newest

DIFFUSION_MODEL = "diffusion model: "
"""What a choice of the checkpoint begins with that is a file of models/diffusion_models."""
FAMILYS_OWN = "family's own"
TRAIN, SHOW = "train", "show"
NAME = "my adapter"
DEFAULTS = Settings()
GREY = torch.full((1, 64, 64, 3), 0.2)
"""Where there is no sheet yet."""


class PPD_TrainUserAdapter(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_TrainUserAdapter",
            display_name="Train User Adapter",
            category=CATEGORY,
            description="Trains a user adapter for your checkpoint out of the studies that it painted (Diffusion-DPO), "
            "so that it paints for anybody's taste. The training runs beside ComfyUI, may be stopped, and goes on "
            "where it was.",
            search_aliases=["training", "train adapter", "train lora", "dpo", "finetune", "own model"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoints(),
                    default=NONE,
                    optional=True,
                    tooltip="The model that painted the studies. For a turbo model take the base that it was made of: "
                    "the adapter then works on both.",
                ),
                io.Combo.Input(
                    "studies",
                    options=[NONE, *folders.study_sets()],
                    default=NONE,
                    optional=True,
                    tooltip="What the checkpoint painted with Paint Studies.",
                ),
                io.Combo.Input(
                    "taste_encoder",
                    options=[NONE, *taste_encoders()],
                    default=NONE,
                    optional=True,
                    tooltip="The taste encoder that Make Taste Encoder made of these studies.",
                ),
                io.String.Input(
                    "name",
                    default=NAME,
                    optional=True,
                    tooltip="The adapter's name: a new file in models/user_adapters.",
                ),
                io.Combo.Input(
                    "action",
                    options=[TRAIN, DRY_RUN, SHOW],
                    default=TRAIN,
                    optional=True,
                    tooltip="What Run does: train starts or continues; dry run checks everything and says how long it "
                    "would take; show starts nothing.",
                ),
                io.Int.Input(
                    "steps",
                    default=DEFAULTS.steps,
                    optional=True,
                    min=0,
                    max=100_000,
                    tooltip="Steps of Diffusion-DPO, in which it learns from picks.",
                ),
                io.Int.Input(
                    "distillation_steps",
                    default=DEFAULTS.distillation_steps,
                    optional=True,
                    min=0,
                    max=100_000,
                    tooltip="Steps of self-distillation before them, in which it learns from the model's own words. "
                    "With the pocket model they brought nothing.",
                ),
                io.Combo.Input(
                    "preference_set",
                    options=[NONE, *folders.preference_sets(), *(PERSON + one for one in people.choices())],
                    default=NONE,
                    optional=True,
                    tooltip="Picks of real people to learn from as well, if you have any. It needs none.",
                    extra_dict={people.MARK: PERSON},
                ),
                *advanced_inputs(),
                Studies.Input(
                    "painted", optional=True, tooltip="What Paint Studies has just painted, in place of a choice."
                ),
                io.String.Input(
                    "made_encoder",
                    optional=True,
                    force_input=True,
                    tooltip="The name that Make Taste Encoder gives, in place of a choice.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Progress, and at the end what was measured."),
                io.Image.Output(
                    display_name="sheet",
                    tooltip="The newest pictures: the plain model, three people, and the opposite of each. Grey while "
                    "there are none.",
                ),
                io.String.Output(
                    display_name="user_adapter", tooltip="The file's name, as Load User Adapter lists it."
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        checkpoint: str | None = NONE,
        preference_set: str | None = NONE,
        action: str | None = TRAIN,
    ) -> bool | str:
        """By name, where ComfyUI's own check would refuse people; and what is missing is told when Run is pressed, not
        when the studies are painted. What is linked is None: it is not known yet."""
        try:
            if action not in (TRAIN, DRY_RUN, SHOW, None):
                return f"Expected {TRAIN}, {DRY_RUN} or {SHOW} as the action, got {action!r}."
            if action != SHOW:
                needs_training()
                if checkpoint is not None:
                    checkpoint_file(checkpoint)
            if preference_set is None:
                return True
            if preference_set.startswith(PERSON):
                people.find(preference_set.removeprefix(PERSON))
            elif preference_set != NONE:
                folders.preference_set(preference_set)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **constants: Any) -> float:
        return float("nan")  # it is another moment of the training

    @classmethod
    def execute(
        cls,
        checkpoint: str = NONE,
        studies: str = NONE,
        taste_encoder: str = NONE,
        name: str = NAME,
        action: str = TRAIN,
        steps: int = DEFAULTS.steps,
        distillation_steps: int = DEFAULTS.distillation_steps,
        preference_set: str = NONE,
        batch: int = DEFAULTS.batch,
        rank: int = DEFAULTS.rank,
        kind: str = FAMILYS_OWN,
        gradient_checkpointing: bool = False,
        solo: bool = False,
        base_seed: int = DEFAULTS.seed,
        text_encoder: str = NONE,
        text_encoder_2: str = NONE,
        text_encoder_type: str = "stable_diffusion",
        vae: str = NONE,
        painted: StudySet | None = None,
        made_encoder: str | None = None,
    ) -> io.NodeOutput:
        folder = folders.training_folder(name)
        out = adapter_path(name)
        training = newest(folder) if action == SHOW else Training(folder / DRY_RUN if action == DRY_RUN else folder)
        if training.state().is_active:
            drop_models()  # this prompt may have loaded the checkpoint again, to get here
        if action == SHOW or training.state().is_active:
            return shown(training, out.name)
        encoder = encoder_folder(chosen(made_encoder or taste_encoder, "taste_encoder"))
        pairs, person = pairs_of(preference_set, folder, solo)
        arguments = [
            *base_arguments(checkpoint, [text_encoder, text_encoder_2], text_encoder_type, vae),
            *("--studies", str(checked_studies(chosen_studies(studies, painted), encoder).folder)),
            *("--encoder", str(encoder)),
            *("--out", str(out)),
            *("--cache", str(folders.feature_cache())),
            *("--folders", str(folder / FOLDERS_FILE)),
            *(() if pairs is None else ("--pairs", str(pairs))),
            *(["--solo"] if solo else []),
        ]
        numbers = {"steps": steps, "distillation-steps": distillation_steps, "batch": batch, "rank": rank}
        for option, number in {**numbers, "seed": base_seed}.items():
            arguments += [f"--{option}", str(number)]
        arguments += [] if kind == FAMILYS_OWN else ["--kind", kind]
        arguments += ["--gradient-checkpointing"] if gradient_checkpointing else []
        arguments += ["--dry-run", "--made", str(folder)] if action == DRY_RUN else []
        if action == TRAIN and out.exists():
            check_finished(training, out, arguments)
        else:
            begin(training, folder, arguments, person)
        return shown(training, out.name)


def advanced_inputs() -> list[io.Input]:
    """What most people leave as it is."""
    types = [kind.name.lower() for kind in comfy.sd.CLIPType]
    text_encoders = [NONE, *folder_paths.get_filename_list("text_encoders")]
    more: dict[str, Any] = {"optional": True, "advanced": True}
    return [
        io.Int.Input(
            "batch",
            default=DEFAULTS.batch,
            min=1,
            max=256,
            tooltip="Batch size, in pairs; a smaller one takes less memory.",
            **more,
        ),
        io.Int.Input(
            "rank",
            default=DEFAULTS.rank,
            min=1,
            max=256,
            tooltip="Rank, as of a LoRA: how much the adapter can hold.",
            **more,
        ),
        io.Combo.Input(
            "kind",
            options=[FAMILYS_OWN, *KINDS],
            default=FAMILYS_OWN,
            tooltip="Where the adapter acts: beside what reads the prompt (cross_attention), or on Linear layers "
            "(low_rank).",
            **more,
        ),
        io.Boolean.Input("gradient_checkpointing", default=False, tooltip="Far less memory, a third slower.", **more),
        io.Boolean.Input(
            "solo", default=False, tooltip="Train for the one person of the preference set only; takes minutes.", **more
        ),
        io.Int.Input(
            "base_seed",
            default=DEFAULTS.seed,
            min=0,
            max=2**31 - 1,
            tooltip="Random seed: another one simulates other people.",
            **more,
        ),
        io.Combo.Input(
            "text_encoder",
            options=text_encoders,
            default=NONE,
            tooltip="Of a diffusion model: its text encoder.",
            **more,
        ),
        io.Combo.Input(
            "text_encoder_2", options=text_encoders, default=NONE, tooltip="The second, where it has two.", **more
        ),
        io.Combo.Input(
            "text_encoder_type", options=types, default=types[0], tooltip="What Load CLIP calls its type.", **more
        ),
        io.Combo.Input(
            "vae",
            options=[NONE, *folder_paths.get_filename_list("vae")],
            default=NONE,
            tooltip="Of a diffusion model: its VAE.",
            **more,
        ),
    ]


def checkpoints() -> list[str]:
    """What can be trained for."""
    models = folder_paths.get_filename_list("diffusion_models")
    return [NONE, *folder_paths.get_filename_list("checkpoints"), *(f"{DIFFUSION_MODEL}{name}" for name in models)]


def chosen(choice: str, name: str) -> str:
    """A choice that must be one."""
    if choice == NONE:
        raise ValueError(f"Training needs a choice of {name}: choose one of the list (R renews it).")
    return choice


def checkpoint_file(choice: str) -> Path:
    """The file of a checkpoint or diffusion model by what the list shows."""
    if chosen(choice, "checkpoint").startswith(DIFFUSION_MODEL):
        return folders.model_file("diffusion_models", choice.removeprefix(DIFFUSION_MODEL))
    return folders.model_file("checkpoints", choice)


def base_arguments(checkpoint: str, text_encoders: list[str], text_type: str, vae: str) -> list[str]:
    """The files of the model."""
    base = checkpoint_file(checkpoint)
    if not checkpoint.startswith(DIFFUSION_MODEL):
        return ["--base", str(base)]
    texts = [str(folders.model_file("text_encoders", name)) for name in text_encoders if name != NONE]
    if not texts or vae == NONE:
        raise ValueError("A diffusion model needs its text_encoder and its vae: choose their files, too.")
    arguments = ["--base", str(base), "--text-encoder", *texts, "--text-type", text_type]
    return [*arguments, "--vae", str(folders.model_file("vae", vae))]


def checked_studies(studies: StudySet | None, encoder: Path) -> StudySet:
    """Studies with which simulated people can be made; ValueError where there are none, or of another encoder."""
    if studies is None:
        raise ValueError("Training needs studies: choose a set of the list (R renews it), or connect Paint Studies.")
    looks = TasteEncoder.load(encoder).looks
    if looks is None or not set(looks.names) <= set(studies.looks):
        raise ValueError(
            f"The taste encoder {encoder.name!r} was not made of the studies {studies.name!r}: make it of them with "
            "Make Taste Encoder."
        )
    return studies


def pairs_of(choice: str, folder: Path, solo: bool) -> tuple[Path | None, str | None]:
    """Where real people's pairs lie, and who of the taste store has them kept there; None each where it is nobody."""
    if choice == NONE:
        if solo:
            raise ValueError("Training for one person needs their picks: choose a preference_set, or turn solo off.")
        return None, None
    if not choice.startswith(PERSON):
        return folders.preference_set(choice), None
    person = people.find(choice.removeprefix(PERSON))
    if person is None:
        raise ValueError("There is nobody of that name in the taste store yet: pick in the tab Taste first.")
    if not person.picks:
        raise ValueError(f"{person.name} has picked nothing yet: pick in the tab Taste first.")
    return folder / person.id, person.id


def check_finished(training: Training, out: Path, arguments: list[str]) -> None:
    """Refuse to train what is there, unless it is this training's, by the same settings."""
    if training.state().state != "finished":
        raise ValueError(f"There is a user adapter {out.stem!r} already: choose another name.")
    if changed := training.changed(arguments):
        raise ValueError(
            f"{out.stem!r} is finished, and was trained with other settings ({', '.join(changed)}): choose another "
            "name to train with these."
        )


def adapter_path(name: str) -> Path:
    """The file that an adapter of this name goes to."""
    plain = folders.plain_or_refused(name, "models/user_adapters")
    return Path(folder_paths.get_folder_paths("user_adapters")[0]) / f"{plain}.safetensors"


def shown(training: Training, adapter: str) -> io.NodeOutput:
    """What the node puts out of a training."""
    report = told(adapter, training.state())
    return io.NodeOutput(report, sheet(training), adapter, ui=ui.PreviewText(report))


def told(adapter: str, state: State) -> str:
    """How a training stands, in a sentence; at its end the report."""
    left = "" if state.seconds_left is None else f", about {duration(state.seconds_left)} left"
    words = {
        "new": "Nothing was started.",
        "preparing": "Has begun: reading the pictures. It goes on when ComfyUI is closed.",
        "training": f"Step {state.step} of {state.of}{left}.",
        "measuring": f"Trained, now being measured ({state.measured:.0%}).",
        "stopping": "Stopping.",
        "stopped": f"Stopped after step {state.step} of {state.of}: run again to continue.",
        "finished": state.report(),
        "failed": f"Failed: {state.message}",
        "died": f"Ended without a word after step {state.step} of {state.of}, perhaps for want of memory: run again, "
        "and it goes on from what it saved.",
    }
    return f"{adapter}: {words[state.state]}"


def sheet(training: Training) -> torch.Tensor:
    """The newest sheet of pictures [1, H, W, 3]."""
    path = training.folder / "sheet.png"
    if not path.is_file():
        return GREY
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255)[None]
