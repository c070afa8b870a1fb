"""A person's whole set of pairs: what it holds, what a moodboard counts against, and that tab and workflow agree."""

from __future__ import annotations

import importlib
import time
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from ppd.pictures import Picture
from tests.slowness import slowness

pytestmark = pytest.mark.comfyui


@pytest.fixture
def taste(comfy_folders, monkeypatch):
    """The module `taste_pairs`, with a person, on ComfyUI's folders in a temporary place."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(comfy_folders.output))
    module = importlib.import_module("ppd_pack.nodes.taste_pairs")
    module.forget("nobody")
    store = comfy_folders.module.taste_store()
    return SimpleNamespace(module=module, store=store, person=store.add_person("Aki").id, folders=comfy_folders)


def paint(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), colour).save(path)
    return path


def keep(taste, name, prompt="", rating="keep"):
    """Rates a picture of output as the panel does."""
    path = taste.folders.output / name
    picture = taste.store.add_picture(taste.person, prompt, Picture(path), {"folder": "output", "picture": name})
    taste.store.rate(taste.person, picture, rating, f"{name} {rating}")
    return Picture(path).digest


def test_a_moodboard_counts_against_its_folders_rest_and_picks_come_after(taste):
    for number in range(4):
        paint(taste.folders.output / "day" / f"{number}.png", (50 * number, 0, 0))
    paint(taste.folders.output / "elsewhere.png", (1, 2, 3))
    (taste.folders.output / "day" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    loved = [keep(taste, f"day/{number}.png") for number in (0, 1)]
    kept, refused = paint(taste.folders.output / "a.png", (0, 9, 0)), paint(taste.folders.output / "b.png", (0, 0, 9))
    keep(taste, "a.png", "a fox")
    keep(taste, "b.png", "a fox", "not")
    pairs = taste.module.pairs_of(taste.person)
    rest = {Picture(taste.folders.output / "day" / f"{number}.png").digest for number in (2, 3)}
    assert [pair.chosen.digest for pair in pairs] == [*2 * loved[:1], *2 * loved[1:], Picture(kept).digest]
    assert [{pair.rejected.digest for pair in pairs[n : n + 2]} for n in (0, 2)] == [rest, rest]
    assert pairs[-1].rejected.digest == Picture(refused).digest
    assert len({pair.choice for pair in pairs}) == 3
    assert taste.module.pairs_of(taste.person, first_answers=1) == pairs[-1:]  # the moodboard is no answer
    assert taste.module.pairs_of(taste.person, first_answers=0) == []


def test_where_nothing_lies_beside_it_the_background_is_all_of_output_or_none(taste):
    paint(taste.folders.output / "loved" / "0.png", (5, 5, 5))
    digest = keep(taste, "loved/0.png")
    assert taste.module.pairs_of(taste.person) == []
    other = paint(taste.folders.output / "other.png", (6, 6, 6))
    taste.module.forget(taste.person)
    (pair,) = taste.module.pairs_of(taste.person)
    assert (pair.chosen.digest, pair.rejected.digest) == (digest, Picture(other).digest)


@pytest.fixture
def walks(taste, monkeypatch):
    """A folder's pictures are listed through this; one entry per time."""
    found, listing = [], taste.module.finished_pictures
    monkeypatch.setattr(taste.module, "finished_pictures", lambda *given: found.append(given) or listing(*given))
    return found


def test_answers_and_new_pictures_walk_no_folder_anew_while_the_background_is_full(taste, walks):
    for number in range(70):
        paint(taste.folders.output / f"{number}.png", (3 * number, 0, 0))
    digests = [keep(taste, f"{number}.png") for number in (0, 1)]
    before = taste.module.moodboard_of(taste.person)
    assert len({pair.rejected.digest for pair in before}) == 64 and len(walks) == 1
    taste.store.choose(taste.person, "p", digests, digests[0], "an answer")
    paint(taste.folders.output / "new.png", (0, 0, 9))
    assert taste.module.moodboard_of(taste.person) is before and len(walks) == 1
    before[0].rejected.path.unlink()
    after = taste.module.moodboard_of(taste.person)
    assert len(walks) == 2 and len({pair.rejected.digest for pair in after}) == 64
    keep(taste, "2.png")
    assert len({pair.choice for pair in taste.module.moodboard_of(taste.person)}) == 3


def test_a_background_that_is_not_full_takes_in_what_is_painted(taste, walks):
    for number in range(3):
        paint(taste.folders.output / "day" / f"{number}.png", (50 * number, 0, 0))
    keep(taste, "day/0.png")
    assert len(taste.module.moodboard_of(taste.person)) == len(taste.module.moodboard_of(taste.person)) == 2
    assert len(walks) == 1
    paint(taste.folders.output / "day" / "3.png", (0, 50, 0))
    assert len(taste.module.moodboard_of(taste.person)) == 3


def test_three_hundred_loved_pictures_keep_nobody_waiting(taste):
    interviews = importlib.import_module("ppd_pack.nodes.interviews")
    for number in range(400):
        paint(taste.folders.output / f"{number}.png", (number % 250, number // 2, 99))
    digests = [keep(taste, f"{number}.png") for number in range(300)]
    interview = interviews.Interview(taste.store, interviews.read_encoder("pocket"), taste.module.moodboard_of)
    assert interview.ask(taste.person)[1].pairs == 300
    taste.store.choose(taste.person, "p", digests[:2], digests[0], "an answer")
    before = time.process_time()
    assert interview.ask(taste.person)[1].pairs == 301
    assert time.process_time() - before < 0.1 * slowness()  # about .04 s, and 1.5 to 2 s against 64 others each


def test_the_studies_of_the_persons_encoder_go_first(taste, monkeypatch):
    study = paint(taste.folders.datasets / "studies" / "study.png", (7, 7, 7))
    paint(taste.folders.output / "day" / "0.png", (0, 0, 0))
    paint(taste.folders.output / "day" / "1.png", (1, 1, 1))
    keep(taste, "day/0.png")
    monkeypatch.setattr(taste.module, "_studies", lambda encoder: [study])
    (pair,) = taste.module.pairs_of(taste.person)
    assert pair.rejected.digest == Picture(study).digest


def test_tab_and_workflow_read_the_same(taste, run):
    """Picks, choices, ratings and a moodboard, and picks that fade."""
    interviews = importlib.import_module("ppd_pack.nodes.interviews")
    for number in range(6):
        paint(taste.folders.output / f"{number}.png", (40 * number, 90, 250 - 40 * number))
    digests = [keep(taste, f"{number}.png", "a fox", "keep" if number > 3 else "not") for number in range(5)]
    keep(taste, "5.png")
    for number in range(3):
        first, second = (Picture(taste.store.picture(digests[n])) for n in (number, number + 1))
        taste.store.pick(taste.store.add_candidate(taste.person, f"p{number}", first, second), "second", f"r{number}")
    taste.store.choose(taste.person, "p", digests[:4], digests[2], "best")
    taste.store.set_half_life(taste.person, 2.0)
    pairs = run("PreferencePairLoader", preference_set=f"person: {taste.person}", user="").result[0]
    interview = interviews.interview_of(taste.person)
    encoded, asked = interview.encoder.encode(pairs), interview.ask(taste.person)[1]
    assert torch.allclose(asked.u, encoded.u, atol=1e-5)
    assert asked.pairs == encoded.pairs == 1 + 1 + 3 + 1  # the moodboard's, the kept one's, picks, the best of four
    none = interview.encoder.encode([])
    assert (asked.u - none.u).norm() > 0.1
    interviews.forget(taste.person)


def test_a_limit_counts_answers_and_cuts_no_choice(taste, run):
    for number in range(4):
        paint(taste.folders.output / f"{number}.png", (60 * number, 0, 0))
    keep(taste, "0.png")
    keep(taste, "1.png")
    assert len(run("PreferencePairLoader", preference_set=f"person: {taste.person}", user="", limit=2).result[0]) == 4
    assert len(run("PreferencePairLoader", preference_set=f"person: {taste.person}", user="", limit=1).result[0]) == 2
