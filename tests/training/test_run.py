"""A run goes on only with what it was trained on so far."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from ppd.encoders.towers import open_tower
from ppd.pairs import read_pairs
from ppd.pocket.studio import ENCODER, WEIGHTS
from ppd.training.run import Run
from ppd.training.settings import Objective, Settings
from tests.conftest import write_example

from .study_sets import MODEL, encoder_of, paint_studies


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    studies = paint_studies(folder / "studies", prompts=10)
    encoder = encoder_of(studies, open_tower({"kind": "folder"}, WEIGHTS / ENCODER))
    return Run(SimpleNamespace(signature=MODEL), encoder, studies, folder / "work")


def test_what_was_learned_of_something_else_is_refused(run, tmp_path):
    more = paint_studies(tmp_path / "more", prompts=11)
    known = run.encoder
    refitted = type(known)(known.features, replace(known.prior, mean=known.prior.mean + 1), known.looks)
    others = {
        "base": replace(run, base=SimpleNamespace(signature={**MODEL, "weights": "2" * 16})),
        "studies": replace(run, studies=more),
        "population": replace(run, encoder=refitted),
        "pairs": replace(run, solo=True),
        "studies, pairs": replace(run, studies=more, solo=True),
        "learning_rate, objective": replace(run, settings=Settings(learning_rate=1e-4, objective=Objective(beta=9.0))),
    }
    run._go_on()
    for other in others.values():
        other._go_on()  # nothing was learned yet
    run._go_on()
    (run.folder / "preferences.pt").touch()
    for name, other in others.items():
        with pytest.raises(
            ValueError, match=f"was trained with other {name}: choose another name for the adapter, or begin"
        ):
            other._go_on()
    replace(run, settings=Settings(steps=9, pictures_every=5))._go_on()


def test_pairs_are_told_apart_by_whose_they_are_and_by_their_prompts(run, tmp_path):
    write_example(tmp_path / "set", seed=3, pairs=4)
    pairs = list(read_pairs(tmp_path / "set"))
    users = [[pair.user for pair in pairs], ["a"] * 4, ["a", "a", "b", "b"], ["a", "b", "a", "b"]]
    kinds = [[replace(pair, user=user) for pair, user in zip(pairs, of, strict=True)] for of in users]
    kinds.append([replace(pair, prompt="a red car at night") for pair in pairs])
    told = [replace(run, pairs=kind).inputs()["pairs"] for kind in kinds]
    assert told[0] == told[1] and len(set(told)) == 4  # one person is one person, whatever the name
    moved = replace(run.studies, pictures=[replace(one, prompt="another") for one in run.studies.pictures])
    assert replace(run, studies=moved).inputs()["studies"] != run.inputs()["studies"]


def test_another_bases_latents_lie_apart(run):
    assert run._latents != replace(run, base=SimpleNamespace(signature={**MODEL, "weights": "2" * 16}))._latents
