"""Explain Taste and Turn One Look as nodes, with the real taste encoder of the pocket's world and with random ones."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ppd.encoders.encoder import TasteEncoder
from ppd.explain.influence import leans
from ppd.pictures import Picture
from ppd.pocket import scenes
from ppd.user_embedding import null_user

pytestmark = pytest.mark.comfyui
WEIGHTS = Path(__file__).resolve().parents[2] / "weights"


@pytest.fixture
def shipped(comfy_folders, monkeypatch):
    """The shipped weights in place of random ones."""
    monkeypatch.setattr(comfy_folders.module, "WEIGHTS", WEIGHTS)
    import_module("ppd_pack.nodes.encoders")._tower.cache_clear()
    yield comfy_folders
    import_module("ppd_pack.nodes.encoders")._tower.cache_clear()


@pytest.fixture
def store(comfy_folders):
    return comfy_folders.module.taste_store()


def pick_vivid(store, person, count):
    """Picks of the more vivid of two pictures of a scene; the third answer is neither."""
    rng = np.random.default_rng(0)
    for number in range(count):
        caption = scenes.TRAINING_CAPTIONS[number]
        styles = [scenes.random_style(rng) | {"saturation": vivid} for vivid in (1.0, -1.0)]
        pictures = [
            Picture.from_image(Image.fromarray(scenes.render(caption, style, 2 * number + which)))
            for which, style in enumerate(styles)
        ]
        candidate = store.add_candidate(person, caption, *pictures)
        store.pick(candidate, "tie" if number == 2 else "first", f"{person} {number}")


def test_who_picks_vivid_pictures_is_told_so_and_by_which_picks(run, shipped, store):
    person = store.add_person("ann").id
    pick_vivid(store, person, 16)
    pairs = run("PreferencePairLoader", preference_set=f"person: {person}").result[0]
    made = run("PPD_ExplainTaste", pairs=pairs, encoder="pocket", what_if=1)
    report, values, pictures = made.result
    lines = report.splitlines()
    assert made.ui.as_dict()["text"][0] == report
    assert lines[0] == "Of 16 picks." and lines[1].startswith("saturation: vivid. Of 100 pairs that differ in it: ")
    found = json.loads(values)
    first = found["looks"][0]
    assert first["statement"]["prefers"] == "vivid" and first["lean"] > 1 and first["least"] > -0.5
    assert first["causes"][-1]["answer"] == 2 and first["causes"][-1]["adds"] < 0  # neither, of one vivid and one grey
    assert lines[2].startswith(f"  Picks that say so: {first['causes'][0]['answer'] + 1} (without it ")
    assert found["points"] == list(range(17)) and found["drift"] == []
    assert found["what_if"]["pick"] == 1 and found["what_if"]["id"] == pairs[0].id
    assert 0 < found["what_if"]["decided"] < 0.5
    assert any(line.startswith("Had pick 1 been the other one, ") for line in lines)
    assert pictures.shape[0] == 1 and pictures.shape[2] >= 6 * 192 and 0 <= pictures.min() < pictures.max() <= 1
    assert scenes.TRAINING_CAPTIONS[0] not in report + values and "ann" not in values


def test_nobody_and_wrong_numbers_are_told(run, shipped, store):
    report, values, pictures = run("PPD_ExplainTaste", encoder="pocket").result
    assert report == "No picks yet, so there is nothing to explain." and json.loads(values)["answers"] == 0
    assert not pictures.any()
    with pytest.raises(ValueError, match="There is no pick 1: none is known yet, so set what_if to 0."):
        run("PPD_ExplainTaste", encoder="pocket", what_if=1)
    person = store.add_person("ann").id
    pick_vivid(store, person, 3)
    pairs = run("PreferencePairLoader", preference_set=f"person: {person}").result[0]
    with pytest.raises(ValueError, match="There is no pick 4: choose one of 1 to 3, or 0 for none"):
        run("PPD_ExplainTaste", pairs=pairs, encoder="pocket", what_if=4)
    with pytest.raises(ValueError, match="Nothing was preferred in this answer"):
        run("PPD_ExplainTaste", pairs=pairs, encoder="pocket", what_if=3)


def test_pairs_of_one_id_are_told_apart_where_one_of_them_is_broken(run, shipped, store, tmp_path):
    person = store.add_person("ann").id
    pick_vivid(store, person, 6)
    pairs = run("PreferencePairLoader", preference_set=f"person: {person}").result[0]
    expected = json.loads(run("PPD_ExplainTaste", pairs=pairs[1:], encoder="pocket").result[1])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    picture = type(pairs[0].chosen)
    same = [replace(pair, id="same") for pair in pairs]
    same[0] = replace(same[0], chosen=picture(broken))
    report, values, _ = run("PPD_ExplainTaste", pairs=same, encoder="pocket", what_if=5).result
    found = json.loads(values)
    assert found["looks"] == expected["looks"] and found["what_if"]["id"] == "same"
    assert report.splitlines()[0] == "Of 5 picks." and "Left out 1:" in report


def test_an_encoder_without_looks_explains_nothing(run, comfy_folders):
    folder = comfy_folders.weights / "taste_encoders" / "pocket"
    encoder = TasteEncoder.load(folder)
    own = comfy_folders.models / "taste_encoders" / "plain"
    replace(encoder, looks=None).save(own)
    (own / "tower.safetensors").write_bytes((folder / "tower.safetensors").read_bytes())
    with pytest.raises(ValueError, match="'plain' names no looks, so nothing can be explained by it"):
        run("PPD_ExplainTaste", encoder="plain")


def test_one_look_is_turned_and_the_others_stay(run, comfy_folders):
    pairs = run("PreferencePairLoader", preference_set="example: warm").result[0]
    person = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]
    people, report = run("PPD_TurnLook", user_embedding=person, look="light", reach=1.0, pictures=3).result
    assert report == "light, from dark to pale: -1.0, as they are, +1.0. What they like otherwise stays."
    assert people[1] is person
    encoder = TasteEncoder.load(comfy_folders.weights / "taste_encoders" / "pocket")
    lean = leans(encoder.looks, encoder.prior.noise)
    less, same, more = (lean @ one.u[0].double() for one in people)
    assert float(more[1] - same[1]) == pytest.approx(float(same[1] - less[1]), rel=1e-4) and more[1] > same[1]
    torch.testing.assert_close(less[0], same[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(more[0], same[0], atol=1e-5, rtol=0)
    adapter = run("PPD_UserAdapterLoader", user_adapter="pocket").result[0]
    for one in people:
        adapter.model.config.check_embedding(one)


def test_what_cannot_be_turned_is_told(run, node_classes, comfy_folders):
    assert run("PPD_TurnLook", look="light").result[0] == [None]
    pairs = run("PreferencePairLoader", preference_set="example: warm").result[0]
    person = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]
    with pytest.raises(ValueError, match="has no look 'grain': choose one of warmth, light"):
        run("PPD_TurnLook", user_embedding=person, look="grain")
    with pytest.raises(ValueError, match="which is not here: put its folder into models/taste_encoders"):
        run("PPD_TurnLook", user_embedding=replace(person, encoder_hash="0" * 64), look="light")
    with pytest.raises(ValueError, match="one person to turn a look of, got a batch of 2"):
        run("PPD_TurnLook", user_embedding=(person, person), look="light")
    (look,) = (entry for entry in node_classes["PPD_TurnLook"].GET_SCHEMA().inputs if entry.id == "look")
    assert look.options == ["warmth", "light"]
    assert len(run("PPD_TurnLook", user_embedding=null_user(person), look="light").result[0]) == 5
