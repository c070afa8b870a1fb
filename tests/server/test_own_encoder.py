"""One's own taste encoder in the real server: chosen, read anew in the background, lost; questions from studies."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ppd.encoders.encoder import TasteEncoder
from ppd.lexicon import read_lexicon
from ppd.pictures import Picture
from ppd.pocket.studio import ENCODER, WEIGHTS
from ppd.studies import continue_studies

from .test_routes import call, told

pytestmark = pytest.mark.comfyui


@pytest.fixture
def other_encoder(server):
    """A taste encoder of the user's: the pocket's tower in a space of 8 dimensions, without looks."""
    folder = server.base / "models" / "taste_encoders" / "mine"
    shipped = TasteEncoder.load(WEIGHTS / ENCODER)
    prior = replace(
        shipped.prior,
        mean=shipped.prior.mean[:8],
        covariance=shipped.prior.covariance[:8, :8],
        basis=shipped.prior.basis[:, :8],
    )
    replace(shipped, prior=prior, looks=None).save(folder)
    shutil.copy(WEIGHTS / ENCODER / "tower.safetensors", folder)
    yield "mine"
    shutil.rmtree(folder, ignore_errors=True)


def plain(*colour):
    return Picture.from_image(Image.new("RGB", (16, 16), colour))


def test_another_encoder_reads_the_same_picks(server, store, somebody, other_encoder):
    person, asked = somebody
    state = told(server, f"people/{person}/picks", {"candidate": asked[0], "verdict": "first", "request": "r"})
    assert state["encoders"] == ["pocket-flow", "pocket", "mine"] and state["person"]["encoder"] == "pocket-flow"
    state = told(server, f"people/{person}/encoder", {"encoder": other_encoder, "request": "r"})
    assert (state["person"]["encoder"], state["person"]["picks"], state["statements"]) == ("mine", 1, [])
    assert state["question"]["id"] in asked[1:] and state["problem"] is None
    status, text = call(server, f"people/{person}/encoder", {"encoder": "../mine", "request": "r"})
    assert status == 400 and "There is no taste encoder '../mine'" in json.loads(text)["error"]
    assert store.person(person).encoder == "mine"


def test_an_encoder_that_is_gone_leaves_the_person_and_another_can_be_chosen(server, store, somebody, other_encoder):
    person, asked = somebody
    told(server, f"people/{person}/encoder", {"encoder": other_encoder, "request": "r"})
    folder = server.base / "models" / "taste_encoders" / other_encoder
    (folder / "encoder.safetensors").unlink()
    assert "cannot be read" in told(server, f"people/{person}/question")["problem"]
    shutil.rmtree(folder)
    state = told(server, f"people/{person}/question")
    assert "There is no taste encoder 'mine'" in state["problem"] and state["question"] is None
    status, _ = call(server, f"people/{person}/picks", {"candidate": asked[0], "verdict": "tie", "request": "r"})
    assert status == 200 and store.person(person).picks == 1
    state = told(server, f"people/{person}/encoder", {"encoder": "pocket", "request": "r"})
    assert state["problem"] is None and state["question"]["id"] in asked[1:]


def test_many_new_pictures_are_read_in_the_background(server, store, somebody):
    person, _ = somebody
    for number in range(40):
        store.add_candidate(person, f"more {number}", plain(5 * number, 0, 0), plain(0, 5 * number, 90))
    state = told(server, f"people/{person}/question")
    assert state["question"] is not None and 36 <= state["reading"][1] <= 43  # asked meanwhile
    end = time.monotonic() + 60
    while (state := told(server, f"people/{person}/question"))["reading"] is not None and time.monotonic() < end:
        assert state["reading"][0] <= state["reading"][1]
        time.sleep(0.1)
    assert state["question"] is not None and state["reading"] is None


def test_questions_from_studies_ask_each_look_once_before_any_twice(server, store, somebody, request):
    person, _ = somebody
    looks = list(read_lexicon().looks.values())[:3]
    folder = Path(server.base) / "datasets" / "asked studies"
    request.addfinalizer(lambda: shutil.rmtree(folder))  # else everybody after this is asked from them
    writer = continue_studies(folder, looks)
    for number in range(2):
        for place, look in enumerate(looks):
            sides = plain(30 * place, 9 * number, 0), plain(30 * place, 9 * number, 200)
            assert writer.add_finished(look, f"a dog {number}", 7, *sides)
    assert writer.add_finished(looks[0], "heeded not", 7, plain(1, 1, 1), plain(1, 1, 1))  # and so never asked
    assert "asked studies" in told(server, "studies")
    with ThreadPoolExecutor(3) as hands:  # at once, and yet each question is filed by one of them
        bodies = [{"studies": "asked studies", "request": f"r{number}"} for number in range(3)]
        answers = list(hands.map(lambda body: told(server, f"people/{person}/studies", body)["new"], bodies))
    assert sorted(answers) == [0, 0, 6]
    new = store.inbox(person)[:6][::-1]
    assert [one.origin["look"] for one in new] == [look.id for look in looks] * 2
    digests = {plain(0, 0, 0).digest, plain(0, 0, 200).digest}
    assert {new[0].first, new[0].second} == digests and new[0].prompt == "a dog 0"
    assert told(server, f"people/{person}/studies", {"studies": "asked studies", "request": "s"}) == {"new": 0}
    status, text = call(server, f"people/{person}/studies", {"studies": "../..", "request": "t"})
    assert status == 400 and "Expected the name of a folder" in json.loads(text)["error"]
