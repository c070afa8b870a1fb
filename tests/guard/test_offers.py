"""What was rejected is offered as an open question of the same prompt, and never taken as a pick."""

from __future__ import annotations

from PIL import Image

from ppd.guard.brand import Result, Verdict
from ppd.guard.guide import Object
from ppd.guard.offers import offers
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
