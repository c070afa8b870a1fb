"""Taught at home, painted elsewhere: two servers, of which the second sees a code and nothing else of anybody."""

from __future__ import annotations

from uuid import uuid4

import numpy as np
import pytest

from ppd.pocket.studio import WEIGHTS
from ppd.store import TasteStore

from .test_checkpoints import node
from .test_routes import told

pytestmark = pytest.mark.comfyui
TEMPLATE = "paint for a taste code"


@pytest.fixture
def person(server, store):
    """Somebody at home who took over an example's picks, and is read by the tab."""
    name = f"Ottilie {uuid4().hex[:8]}"
    person = store.add_person(name)
    store.add_pairs(person.id, WEIGHTS / "examples" / "cool and soft")
    told(server, f"people/{person.id}/question")
    yield person
    store.delete_person(person.id)


def paint(server, graphs, code):
    """The template's two pictures for a code: the base's, and the personal one."""
    prompt = graphs.set_inputs(server.prompt(TEMPLATE), "PPD_TasteCode", code=code)
    prompt = graphs.set_inputs(prompt, "KSampler", steps=4)
    prompt = graphs.set_inputs(prompt, "PersonalizedDenoiser", steps=4)
    return [picture[0] for picture in server.pictures(server.run(prompt)).values()]


def test_the_machine_that_paints_sees_no_picture_no_prompt_and_no_name(server, elsewhere, store, person, graphs):
    code = told(server, f"people/{person.id}/code")["code"]
    at_home, there = (paint(one, graphs, code) for one in (server, elsewhere))
    for ours, theirs in zip(at_home, there, strict=True):
        assert np.array_equal(ours, theirs)
    base, personal = (picture.astype(float) for picture in there)
    assert np.abs(base - personal).mean() > 2

    pairs = store.pairs(person.id)
    pictures = [side.read() for pair in pairs for side in (pair.chosen, pair.rejected)]
    words = [person.name, person.id, *(pair.prompt for pair in pairs), *store.digests(person.id)]
    needles = [word.encode() for word in words] + pictures
    assert len(pairs) == 4 and all(words) and not any(needle in code.encode() for needle in needles)

    def holding(one):
        files = [path for path in one.base.rglob("*") if path.is_file()]
        return [path.name for path in [*files, one.log] if any(needle in path.read_bytes() for needle in needles)]

    assert len(holding(server)) > len(pictures)  # the search finds what is there
    assert holding(elsewhere) == []
    assert not list(elsewhere.base.rglob("*.npy"))
    assert TasteStore(elsewhere.base / "user" / "__ppd" / "taste").people() == []
    (saved,) = elsewhere.base.rglob("for one person*.png")
    assert code.encode() in saved.read_bytes()  # which is all that its workflow holds of them


def test_a_code_behind_noise_paints_there_too_and_says_so(server, elsewhere, person, graphs):
    graph = {
        "1": node("PreferencePairLoader", preference_set=f"person: {person.id}", user="", limit=1000, skip_bad=False),
        "2": node("UserEmbeddingEncoder", pairs=["1", 0], encoder="pocket-flow", skip_bad=False),
        "3": node("PPD_TasteToCode", user_embedding=["2", 0], epsilon=8.0),
    }
    (code,) = server.run(graph)["outputs"]["3"]["text"]
    assert code.startswith("ppd2:")
    entry = elsewhere.run({"1": node("PPD_TasteCode", code=code), "2": node("PreviewAny", source=["1", 1])})
    assert entry["outputs"]["2"]["text"][0].endswith("; noise hides each single pick (epsilon 8, delta 1e-05).")
    base, personal = paint(elsewhere, graphs, code)
    assert not np.array_equal(base, personal)
