"""What was rejected is offered as an open question of the same prompt, and never taken as a pick."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ppd.guard.brand import Result, Verdict
from ppd.guard.content import check_content
from ppd.guard.guide import Object
from ppd.guard.offers import MOST, content_offers, offers
from ppd.pictures import Picture
from ppd.store import TasteStore

RULE = Object("never", "a house")


def verdict(kept, level="never"):
    return Verdict((Result(Object(level, "a house"), kept, "a house is there"),))


def pictures(count):
    return [Picture.from_image(Image.new("RGB", (8, 8), (n, 0, 0))) for n in range(count)]


def test_stopped_against_passing_of_the_same_prompt(tmp_path):
    verdicts = [verdict(True), verdict(False), verdict(False), verdict(True), verdict(False), verdict(False, "should")]
    prompts, shown = ["sea", "sea", "sea", "sea", "hills", "sea"], pictures(6)
    found = offers("Sea", verdicts, shown, prompts)
    assert [question.prompt for question in found] == ["sea", "sea"]
    for question, rejected, other in zip(found, (1, 2), (0, 3), strict=True):
        assert {question.first.digest, question.second.digest} == {shown[rejected].digest, shown[other].digest}
        assert question.first.digest < question.second.digest
        guard = question.origin["guard"]
        assert guard["guide"] == "Sea" and guard["broken"] == [str(RULE)]
        assert getattr(question, guard["rejected"]).digest == shown[rejected].digest
    store = TasteStore(tmp_path / "taste")
    ann = store.add_person("ann")
    assert len(store.add_candidates(ann.id, found)) == 2 and store.add_candidates(ann.id, found) == []
    assert store.person(ann.id).open == 2 and store.person(ann.id).picks == 0
    assert [one.origin["guard"]["guide"] for one in store.inbox(ann.id)] == ["Sea", "Sea"]


def test_the_same_picture_twice_is_no_question():
    (one,) = pictures(1)
    assert offers("Sea", [verdict(True), verdict(False)], [one, one], ["sea", "sea"]) == []


def test_what_is_unasked_or_lost_is_offered_against_the_plain_picture():
    count, words = 48, ["a house", "a boat"]
    prompts, place = [f"a boat, no. {number}" for number in range(count)], np.arange(count)
    base = np.tile([False, True], (count, 1))
    personal = np.stack([place % 2 == 0, place % 3 != 0], 1)
    plain, own = pictures(2 * count)[:count], pictures(2 * count)[count:]
    check = check_content(base, personal, prompts, words)
    found = content_offers(check, words, (base, personal), (plain, own), prompts)
    told = {}
    for number in range(count):
        broken = ["unasked: a house"] * (number % 2 == 0) + ["lost: a boat"] * (number % 3 == 0)
        if broken:
            told[prompts[number]] = (own[number].digest, plain[number].digest, broken)
    assert len(told) == 32 and len(found) == MOST == 30
    for question, (prompt, (rejected, other, broken)) in zip(found, told.items(), strict=False):
        guard = question.origin["guard"]
        assert (question.prompt, guard["broken"]) == (prompt, broken)
        assert getattr(question, guard["rejected"]).digest == rejected
        assert {question.first.digest, question.second.digest} == {rejected, other}
    assert content_offers(check_content(base, base, prompts, words), words, (base, base), (plain, own), prompts) == []
