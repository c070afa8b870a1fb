"""Arms from folders: pictures of the same prompts and seeds, one folder for each way to paint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from ..blind_questions import BlindQuestion, Matchup
from ..finished import finished_pictures, prompt_of
from ..messages import quoted
from ..pictures import Picture


def matchups_in(arms: Mapping[str, Path], person: str = "") -> list[Matchup]:
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
        Matchup(prompt_of(first[name]) or Path(name).stem, tuple(Picture(arm[name]) for arm in found.values()))
        for name in sorted(names)
    ]


def questions_of(matchups: Sequence[Matchup]) -> list[BlindQuestion]:
    """Every two arms' pictures of each matchup, the lower arm first; none of two that have painted the same."""
    return [
        BlindQuestion(matchup.prompt, (matchup.pictures[one], matchup.pictures[other]), (one, other))
        for matchup in matchups
        for one, other in combinations(range(len(matchup.pictures)), 2)
        if matchup.pictures[one].digest != matchup.pictures[other].digest
    ]


def _pictures(folder: Path) -> dict[str, Path]:
    found = {one.name: folder / one.name for one in finished_pictures(folder)}
    if not found:
        raise ValueError(f"There are no pictures in {folder}: expected a folder for each way to paint.")
    return found
