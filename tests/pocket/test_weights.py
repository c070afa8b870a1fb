"""The tracked weights: all there, small, fitting each other, and painting what they are asked for."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ppd import cli
from ppd.adapter import UserAdapter
from ppd.pairs import read_pairs
from ppd.pocket import scenes
from ppd.pocket.judge import ObjectJudge, objects_found
from ppd.pocket.model import PocketModel, generate, unknown_words
from ppd.pocket.studio import WEIGHTS, Studio, load_encoder

FILES = ("pocket_base", "pocket_encoder", "pocket_prior", "pocket_world", "pocket_judge")


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio.open()


def test_all_files_are_there_and_small():
    for name in [*FILES, "adapters/pocket", "adapters/pocket-seed2", "baselines/pocket-population"]:
        assert (WEIGHTS / f"{name}.safetensors").is_file(), name
    assert (WEIGHTS / "README.md").is_file()
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) < 40e6


def test_all_adapters_fit_the_base_and_the_encoder():
    encoder, base = load_encoder(), PocketModel.load(WEIGHTS / "pocket_base.safetensors")
    embedding = encoder.encode([])
    for path in sorted([*(WEIGHTS / "adapters").iterdir(), *(WEIGHTS / "baselines").iterdir()]):
        studio = Studio.open(path)
        studio.host.adapter.check_embedding(embedding)
        assert UserAdapter.load(path).config.layers == tuple(a.inner_dim for a in studio.host.attentions)
    assert all(unknown_words(scene.caption, base.vocabulary) == [] for scene in scenes.SCENES)


def test_the_base_paints_what_is_named(studio):
    judge = ObjectJudge()
    judge.load_state_dict({k: v.float() for k, v in load_file(WEIGHTS / "pocket_judge.safetensors").items()})
    prompts = scenes.HELD_OUT_CAPTIONS[::3]
    with torch.no_grad():
        pictures = studio.model.decode(generate(studio.model, prompts, range(len(prompts))))
        found = objects_found(judge.eval(), pictures).numpy()
    named = np.stack([scenes.object_labels(prompt) for prompt in prompts]) > 0.5
    assert (found & named).sum() / named.sum() >= 0.9


def test_two_example_people_are_known_from_four_picks_each():
    folders = sorted(path for path in (WEIGHTS / "examples").iterdir() if path.is_dir())
    assert len(folders) >= 2
    encoder = load_encoder()
    people = [list(read_pairs(folder)) for folder in folders]
    assert {len(pairs) for pairs in people} == {4}
    a, b = (encoder.encode(pairs).u[0] for pairs in people[:2])
    assert torch.cosine_similarity(a, b, dim=0) < 0.9
    assert min(a.norm(), b.norm()) > 0


def test_the_demo_takes_less_than_a_minute(tmp_path):
    start = time.process_time()  # of all threads, so that other programs' share of the machine does not count
    assert cli.main(["demo", "--out", str(tmp_path), "--json", str(tmp_path / "figures.json")]) == 0
    assert time.process_time() - start < 2 * 60, "more than 2 cores do in a minute"
    assert json.loads((tmp_path / "figures.json").read_text())["seconds"] > 0
    sheet = np.asarray(Image.open(tmp_path / "demo.png"))
    left = sheet.shape[1] - 4 * 200
    base, a, b = (sheet[40:232, left + 200 * i : left + 200 * i + 192].astype(int) for i in range(3))
    assert abs(a - base).mean() > 2 and abs(b - base).mean() > 2 and abs(a - b).mean() > 2
