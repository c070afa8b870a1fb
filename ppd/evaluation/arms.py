"""Arms from folders: pictures of the same prompts and seeds, one folder for each way to paint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from ..blind_questions import Question, Scene
from ..finished import finished_pictures, prompt_of
from ..messages import quoted
from ..pictures import Picture


def scenes_in(arms: Mapping[str, Path], person: str = "") -> list[Scene]:
    """What all folders have painted, matched by the pictures' names; the prompt is what the first arm's file tells,
    else its name.

    Where a folder has one of the person's name, the pictures in that are theirs, and so one arm may paint for everybody
    and another for each. ValueError where an arm lacks a picture that another has.
    """
    found = {
        arm: _pictures(next((one for one in folder.glob("*") if one.name == person and one.is_dir()), folder))
        for arm, folder in arms.items()
    }
    names = set().union(*found.values())
    for arm, pictures in found.items():
        missing = sorted(names - pictures.keys())
        if missing:
            raise ValueError(
                f"The folder of {quoted(arm)} lacks {len(missing)} of {len(names)} pictures that another has, such as "
                f"{quoted(missing[0])}: expected the same names in each, as the same prompts and seeds paint them."
            )
    first = next(iter(found.values()))
    return [
        Scene(prompt_of(first[name]) or Path(name).stem, tuple(Picture(arm[name]) for arm in found.values()))
        for name in sorted(names)
    ]


def questions_of(scenes: Sequence[Scene]) -> list[Question]:
    """Every two arms' pictures of each scene, the lower arm first; none of two that have painted the same."""
    return [
        Question(scene.prompt, (scene.pictures[one], scene.pictures[other]), (one, other))
        for scene in scenes
        for one, other in combinations(range(len(scene.pictures)), 2)
        if scene.pictures[one].digest != scene.pictures[other].digest
    ]


def _pictures(folder: Path) -> dict[str, Path]:
    found = {one.name: folder / one.name for one in finished_pictures(folder)}
    if not found:
        raise ValueError(f"There are no pictures in {folder}: expected a folder for each way to paint.")
    return found
