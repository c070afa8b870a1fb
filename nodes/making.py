"""Making a taste encoder: how a tower's view of an artist's own pictures becomes a space of tastes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io, ui

from ..ppd.adapters.user_adapter import config_of
from ..ppd.encoders.encoder import JSON_FILE, embedding_hash
from ..ppd.encoders.features import PictureFeatures
from ..ppd.encoders.making import MOST_DIMS
from ..ppd.encoders.towers import TOWER_FILE
from ..ppd.encoders.workshop import Materials, make_encoder, report_of, save_encoder
from ..ppd.hosts.comfyui_towers import open_tower, tower_choices
from ..ppd.pairs import PreferencePair, read_pairs
from ..ppd.studies import StudySet, open_studies
from ..ppd.training.runs import INPUTS, Training, read_json
from . import folders
from .encoders import FOLDER, encoder_folder, identities, taste_encoders
from .pairs import stop_if_cancelled
from .sockets import CATEGORY, Studies

NONE = "none"
TOWER_OF = "tower of: "
"""Before the name of a taste encoder whose folder holds its tower."""
NAME, SHIPPED = "my model", f"{TOWER_OF}{folders.POCKET}"
MOST_PICTURES = 4000
"""Of a folder; more of them change no direction, and cost time."""


class PPD_MakeTasteEncoder(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_MakeTasteEncoder",
            display_name="Make Taste Encoder",
            category=CATEGORY,
            description="Makes a taste encoder in models/taste_encoders out of studies, any folder of pictures, or "
            "pairs of many people: whitening (what the pictures differ in), population prior (what people are like) "
            "and looks (what can be named).",
            search_aliases=["taste encoder", "train encoder", "whitening", "population", "studies", "looks"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "name",
                    default=NAME,
                    optional=True,
                    tooltip="Its name: a new folder in models/taste_encoders.",
                ),
                io.Combo.Input(
                    "tower",
                    options=list(towers()),
                    default=SHIPPED,
                    optional=True,
                    tooltip="Frozen network that looks at the pictures: files of models/clip_vision, "
                    "models/open_clip, text encoders that see, vision-language models, or the shipped tower. Larger "
                    "ones see more.",
                ),
                io.Combo.Input(
                    "studies",
                    options=[NONE, *folders.study_sets()],
                    default=NONE,
                    optional=True,
                    tooltip="Studies that the checkpoint painted. Looks are measured on them, and simulated people "
                    "like what they show.",
                ),
                io.Combo.Input(
                    "pictures",
                    options=[NONE, *folders.picture_folders()],
                    default=NONE,
                    optional=True,
                    tooltip="A folder of pictures as your models make them, with all folders in it.",
                ),
                io.Combo.Input(
                    "preference_set",
                    options=[NONE, *folders.preference_sets()],
                    default=NONE,
                    optional=True,
                    tooltip="Pairs of many people, if you have any: the population prior is then fitted to them.",
                ),
                io.Int.Input(
                    "most_dimensions",
                    default=MOST_DIMS,
                    optional=True,
                    min=1,
                    max=MOST_DIMS,
                    tooltip="Most dimensions of the user embedding. Fewer are taken where held-out pictures say so.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    optional=True,
                    tooltip="Make it anew where the name is taken. User embeddings of the old one do not fit the new "
                    "one.",
                ),
                Studies.Input(
                    "painted", optional=True, tooltip="What Paint Studies has just painted, in place of a choice."
                ),
            ],
            outputs=[
                io.String.Output(display_name="name", tooltip="The taste encoder's name, as lists show it."),
                io.String.Output(display_name="report", tooltip="What was measured, and which looks were dropped."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str = NAME, **constants: Any) -> float:
        return float("nan")  # pictures come and go in folders; features that are kept make a second run short

    @classmethod
    def execute(
        cls,
        name: str = NAME,
        tower: str = SHIPPED,
        studies: str = NONE,
        pictures: str = NONE,
        preference_set: str = NONE,
        most_dimensions: int = MOST_DIMS,
        overwrite: bool = False,
        painted: StudySet | None = None,
    ) -> io.NodeOutput:
        folder = new_encoder_folder(name, overwrite)
        materials = Materials(
            chosen_studies(studies, painted),
            () if pictures == NONE else folders.pictures_in(pictures, MOST_PICTURES),
            () if preference_set == NONE else pairs_in(preference_set),
        )
        if materials == Materials():
            raise ValueError(
                "There is nothing to make a taste encoder of: choose studies, a folder of pictures, or a preference "
                "set with the pairs of many people."
            )
        reference, tower_folder = chosen_tower(tower)
        features = PictureFeatures(open_tower(reference, tower_folder), cache_dir=folders.feature_cache())
        encoder = make_encoder(features, reference, materials, most_dims=most_dimensions, progress=progress())
        refuse_to_strand(folder.name, embedding_hash(encoder.prior))
        save_encoder(encoder, folder, tower_folder)
        report = f"{folder.name}: {report_of(encoder)}"
        return io.NodeOutput(folder.name, report, ui=ui.PreviewText(report))


def towers() -> dict[str, dict[str, Any]]:
    """References of all towers that can be chosen, by what the list shows; last those in taste encoders' folders."""
    inside = {f"{TOWER_OF}{name}": {"kind": "folder"} for name in taste_encoders() if _holds_tower(name)}
    return {**tower_choices(), **inside}


def chosen_tower(choice: str) -> tuple[dict[str, Any], Path | None]:
    """The reference of a tower by what the list shows, and the taste encoder's folder that it lies in, if it does."""
    found = towers()
    if choice not in found:
        raise ValueError(f"There is no tower {choice!r}: choose one of the list, which names the files that are there.")
    inside = choice.startswith(TOWER_OF)
    return found[choice], encoder_folder(choice.removeprefix(TOWER_OF)) if inside else None


def _holds_tower(name: str) -> bool:
    try:
        return (encoder_folder(name) / TOWER_FILE).is_file()
    except ValueError:  # it went meanwhile
        return False


def new_encoder_folder(name: str, overwrite: bool) -> Path:
    """The folder that a taste encoder of this name goes to; ValueError where the name is taken or is none.

    Names that differ in case alone are one, as they are one folder on Windows and macOS.
    """
    plain = folders.plain_or_refused(name, f"models/{FOLDER}")
    same = [one for one in taste_encoders() if one.casefold() == plain.casefold()]
    taken = plain if plain in same else next(iter(same), None)
    folder = Path(folder_paths.get_folder_paths(FOLDER)[0]) / (taken or plain)
    if taken and not (overwrite and (folder / JSON_FILE).is_file()):
        raise ValueError(
            f"There is a taste encoder {taken!r} already: choose another name, or allow to overwrite a file of yours."
        )
    return folder


def refuse_to_strand(name: str, embeddings: str) -> None:
    """ValueError where the taste encoder of a name would be overwritten by one of other embeddings, and a user adapter,
    or a training that is half done, needs it as it is."""
    _, held = identities().get(name, ("", embeddings))
    if held == embeddings:
        return
    needing = []
    for adapter in folder_paths.get_filename_list("user_adapters"):
        config = config_of(folders.model_file("user_adapters", adapter))
        if config is not None and config.encoder_hash == held:
            needing.append(f"user adapter {adapter!r}")
    for file in folders.trainings_folder().glob(f"*/{INPUTS}"):
        if read_json(file).get("taste encoder") == held and Training(file.parent).is_begun:
            needing.append(f"training {file.parent.name!r}")
    if needing:
        raise ValueError(
            f"The {needing[0]} was made with the taste encoder {name!r} as it is, and fits no other: choose another "
            "name for the new one."
        )


def chosen_studies(choice: str, painted: StudySet | None) -> StudySet | None:
    """Studies by what the list shows, or those that have just been painted."""
    return painted if painted or choice == NONE else open_studies(folders.studies_folder(choice))


def pairs_in(name: str) -> list[PreferencePair]:
    """The pairs of a preference set, undecoded: broken pictures are left out where they are looked at."""
    return list(read_pairs(folders.preference_set(name), check_pictures=False, progress=stop_if_cancelled))


def progress() -> Any:
    """Tells the browser how many pictures were looked at, and stops when the run is cancelled."""
    bar = comfy.utils.ProgressBar(1)

    def report(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return report
