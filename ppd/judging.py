"""`python -m ppd judge NAME=FOLDER NAME=FOLDER --by posterior vlm simulated`: which way would be preferred."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .blind_questions import BlindQuestion, Trial
from .encoders.encoder import PosteriorEncoder, TasteEncoder
from .encoders.towers import open_tower
from .encoders.towers.vlm import LocalVLM
from .evaluation.arms import matchups_in, questions_of
from .evaluation.judged import PAGE_FILE, Bench, judged, sentences, write_judged
from .evaluation.judges import Judge, PosteriorJudge, VLMJudge
from .limits import whole
from .messages import quoted
from .pairs import PreferencePair, counted, read_pairs
from .pictures import Picture
from .pocket.judges import people_of
from .pocket.studio import WEIGHTS
from .pocket.world import WORLDS
from .store import BlindTest, TasteStore

MOST_SHOWN = 64
EVERYBODY = "everybody"
"""Whom pairs without a user are of."""


def command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Judge, write the report and say what it says."""
    arms, benches = _of_tests(arguments) if arguments.tests else _of_folders(arguments)
    found = [(bench, judged(arms, bench)) for bench in benches]
    write_judged(arguments.out, found)
    for bench, figures in found:
        print(f"{bench.told}:")
        for sentence in sentences(figures):
            print(f"  {sentence}")
    print(arguments.out / PAGE_FILE)
    return {"judged": [figures for _, figures in found]}


def _of_folders(arguments: argparse.Namespace) -> tuple[list[str], list[Bench]]:
    folders = _named(arguments.arms)
    benches = []
    for kind in arguments.by:
        told, judges = _judges(kind, arguments)
        questions = {person: questions_of(matchups_in(folders, person)) for person in judges}
        benches.append(Bench(told, judges, questions))
    return list(folders), benches


def _named(arms: Sequence[str]) -> dict[str, Path]:
    named = dict(arm.partition("=")[::2] for arm in arms)
    if not 2 <= len(named) == len(arms) <= 3 or not all(name and folder for name, folder in named.items()):
        raise ValueError(
            f"Expected two or three ways to paint as NAME=FOLDER, each of its own name, got {quoted(' '.join(arms))}; "
            "or --tests."
        )
    return {name: Path(folder) for name, folder in named.items()}


def _judges(kind: str, arguments: argparse.Namespace) -> tuple[str, Mapping[str, Judge]]:
    """What a kind of judge goes by, and one for each person."""
    if kind == "simulated":
        world = WORLDS[arguments.world]
        return f"Simulated people of {world.title}", people_of(world, WEIGHTS, arguments.taste)
    if arguments.pairs is None:
        raise ValueError(f"The judge {kind} goes by people's picks: give --pairs, that made none of the pictures.")
    by_person: dict[str, list[PreferencePair]] = {}
    for pair in read_pairs(arguments.pairs, user=arguments.user):
        by_person.setdefault(pair.user or EVERYBODY, []).append(pair)
    if not by_person:
        raise ValueError(f"There are no preference pairs in {arguments.pairs}: pick at least one.")
    make = _maker(kind, arguments)
    return _told(kind, arguments), {person: make(pairs) for person, pairs in by_person.items()}


def _maker(
    kind: str, arguments: argparse.Namespace, own: str | None = None
) -> Callable[[Sequence[PreferencePair]], Judge]:
    """Picks to a judge; the posterior's by their `own` taste encoder, where none is asked for."""
    if kind == "posterior":
        encoder = _encoder(arguments, own or arguments.world)
        return lambda pairs: PosteriorJudge(encoder, pairs)
    if arguments.vlm is None:
        raise ValueError("The judge vlm needs a model: give --vlm, a folder that transformers reads.")
    shown, vlm = whole("--shown", arguments.shown, 0, MOST_SHOWN), LocalVLM.from_folder(arguments.vlm)
    return lambda pairs: VLMJudge(vlm, [pair for pair in pairs if not pair.tie][-shown:] if shown else [])


def _encoder(arguments: argparse.Namespace, name: str) -> PosteriorEncoder:
    if arguments.encoder is None and name not in WORLDS:
        raise ValueError(
            f"Picks of this store are read by the taste encoder {quoted(name)}: give its folder, --encoder."
        )
    folder = arguments.encoder or WORLDS[name].encoder(WEIGHTS)
    made = TasteEncoder.load(folder)
    return made.open(open_tower(made.tower, folder, find=lambda kind, name: arguments.models / kind / name))


def _told(kind: str, arguments: argparse.Namespace) -> str:
    if kind == "posterior":
        return "The posterior of the person's held-out picks"
    return (
        f"{arguments.vlm.name}, shown at most {counted(arguments.shown, 'pair')} of the person and asked in both orders"
    )


def _of_tests(arguments: argparse.Namespace) -> tuple[list[str], list[Bench]]:
    """Each person's newest finished test, by their picks that came after it, or a model that is shown those before; who
    has no such picks is left out."""
    if arguments.arms:
        raise ValueError("Expected ways to paint or --tests, got both: leave one out.")
    if not (arguments.tests / "taste.sqlite3").is_file():
        raise ValueError(f"There is no taste store in {arguments.tests}: expected user/__ppd/taste of a ComfyUI.")
    store = TasteStore(arguments.tests)
    people = {person.id: person for person in store.people()}
    tests = {
        person: test
        for person in people
        if (test := next((one for one in store.tests(person) if one.finished), None)) is not None
    }
    compared = sorted({test.arms for test in tests.values()})
    if len(compared) != 1:
        raise ValueError(
            f"Expected finished blind tests of the same ways to paint, got {len(compared)} kinds: finish one, or give "
            "everybody's the same names."
        )
    benches = []
    for kind in arguments.by:
        if kind == "simulated":
            raise ValueError("A person's own test is judged by their picks: give --by posterior or vlm.")
        picks = {person: found for person, test in tests.items() if (found := _picks(store, test, kind))}
        if not picks:
            raise ValueError(
                "Nobody has picked anything since their blind test was painted, so no pick is held out: pick some "
                "more, or give --by vlm."
            )
        # A model that sees is the same for all, and so is an encoder that was asked for
        own = {
            person: people[person].encoder if kind == "posterior" and not arguments.encoder else None
            for person in picks
        }
        make = {name: _maker(kind, arguments, name) for name in set(own.values())}
        judges = {person: make[own[person]](found) for person, found in picks.items()}
        asked = {person: [one for one in tests[person].trials if one.repeats is None] for person in picks}
        questions = {person: [_question(store, one) for one in trials] for person, trials in asked.items()}
        answers = {person: [one.winner() for one in trials] for person, trials in asked.items()}
        left_out = f"; {counted(len(tests) - len(picks), 'test')} left out, without picks to go by"
        told = _told(kind, arguments) + left_out * (len(tests) > len(picks))
        benches.append(Bench(told, judges, questions, answers))
    return list(compared[0]), benches


def _question(store: TasteStore, trial: Trial) -> BlindQuestion:
    """A test's question with the lower arm first, as other questions have it."""
    (one, first), (other, second) = sorted(zip(trial.arms, trial.pictures, strict=True))
    return BlindQuestion(trial.prompt, (Picture(store.picture(first)), Picture(store.picture(second))), (one, other))


def _picks(store: TasteStore, test: BlindTest, kind: str) -> list[PreferencePair]:
    """The person's pairs that the taste under test had, for a model to see; for the posterior those that came later."""
    first = sum(answer.created <= test.created for answer in store.answers(test.person))
    before = store.pairs(test.person, [], first=first)
    return before if kind == "vlm" else store.pairs(test.person, [])[len(before) :]
