"""A studio's files, and the command that rehearses a federated prior with one preference set a studio."""

from __future__ import annotations

import shutil

import pytest
import torch

from ppd.cli import main
from ppd.encoders.encoder import TasteEncoder
from ppd.encoders.population import fit_population
from ppd.federated.hiding import Hiding
from ppd.federated.studio import people_of, price, public_prior, save_prior
from ppd.pairs import read_pairs
from ppd.pocket.studio import ENCODER, WEIGHTS, load_encoder
from ppd.privacy import Guarantee

SETS = [WEIGHTS / "examples" / name for name in ("cool and soft", "dark and bold", "pale and soft")]
FOLDER = WEIGHTS / ENCODER


@pytest.fixture(scope="module")
def studios(tmp_path_factory):
    return [people_of(pairs, FOLDER, tmp_path_factory.mktemp("models")) for pairs in SETS]


def test_people_are_read_as_the_encoder_reads_them(studios):
    told = load_encoder().read(list(read_pairs(SETS[0])))
    ((differences, outcomes, choices),) = studios[0]
    torch.testing.assert_close(differences, told.differences.double())
    assert torch.equal(outcomes, told.outcomes.double()) and torch.equal(choices, told.choices)


def test_the_command_writes_the_encoder_with_the_pooled_prior(studios, tmp_path, capsys):
    out = tmp_path / "all"
    assert main(["federated-prior", *map(str, SETS), "--encoder", str(FOLDER), "--out", str(out), "--rounds", "2"]) == 0
    assert "the prior of 3 people in 3 studios, by their sums" in capsys.readouterr().out
    mean, covariance = fit_population([person for people in studios for person in people], 2)
    made, before = TasteEncoder.load(out), TasteEncoder.load(FOLDER)
    torch.testing.assert_close(made.prior.mean, mean.float())
    torch.testing.assert_close(made.prior.covariance, covariance.float())
    assert made.weight_hash == before.weight_hash and made.made["studios"] == 3
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in FOLDER.iterdir())


def test_three_people_at_epsilon_8_are_told_that_nothing_is_left(tmp_path, capsys):
    arguments = ["federated-prior", *map(str, SETS), "--encoder", str(FOLDER), "--out", str(tmp_path / "hidden")]
    assert main([*arguments, "--epsilon", "8"]) == 0
    assert "3 people at epsilon 8, delta 1e-05, for each person over 12 rounds" in capsys.readouterr().out
    made = TasteEncoder.load(tmp_path / "hidden").made
    assert (made["epsilon"], made["delta"], made["hides"]) == (8.0, 1e-5, "each person")


def test_what_is_there_already_is_not_written_over(tmp_path, capsys):
    shutil.copytree(FOLDER, tmp_path / "mine")
    before = (tmp_path / "mine" / "encoder.safetensors").read_bytes()
    with pytest.raises(ValueError, match="There is a folder mine already"):
        save_prior(public_prior(FOLDER), FOLDER, tmp_path / "mine", 3, None)
    assert (tmp_path / "mine" / "encoder.safetensors").read_bytes() == before


def test_the_price_falls_with_people_and_says_how_many_are_needed():
    hiding = Hiding(Guarantee(8.0), 10)
    few, many = price(hiding, 50, 32), price(hiding, 100_000, 32)
    assert "leaves next to nothing" in few and "leaves next to nothing" not in many
    needed = int(few.split("bring ")[1].split()[0])
    assert "leaves next to nothing" in price(hiding, needed - 20, 32)
    assert "leaves next to nothing" not in price(hiding, needed + 20, 32)
