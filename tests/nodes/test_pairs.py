"""Load Preference Pairs."""

from __future__ import annotations

import json
import time

import pytest
import torch

from ppd.pictures import Picture
from tests.slowness import slowness

pytestmark = pytest.mark.comfyui
ID = "PreferencePairLoader"


def rows(folder):
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


def write_rows(folder, values):
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in values))


def test_an_example_is_read_and_shown(run):
    pairs, pictures, report = run(ID, preference_set="example: warm").result
    assert [pair.id for pair in pairs] == ["pair-0", "pair-1", "pair-2", "pair-3"]
    assert report == "example: warm: 4 pairs on 1 prompt, 0 ties."
    assert pictures.shape == (4, 256, 520, 3) and pictures.dtype == torch.float32
    left, gap, right = pictures[:, :, :256], pictures[:, :, 256:264], pictures[:, :, 264:]
    assert (left[..., 0].mean() - right[..., 0].mean()) > 0.3  # the chosen ones are warm
    assert gap.std() < 1e-4


def test_people_limit_and_ties(run, example):
    folder = example("input")
    values = rows(folder)
    for row, user in zip(values, ("ann", "bob", "ann", "ann"), strict=True):
        row["user"] = user
    values[2]["tie"] = True
    write_rows(folder, values)
    pairs, _, report = run(ID, preference_set="input: mine", user=" ann ").result
    assert [pair.id for pair in pairs] == ["pair-0", "pair-2", "pair-3"]
    assert "3 pairs on 1 prompt, 1 tie." in report
    assert len(run(ID, preference_set="input: mine", limit=2).result[0]) == 2
    with pytest.raises(ValueError, match="no usable pairs of the user 'eve'"):
        run(ID, preference_set="input: mine", user="eve")


def test_bad_pictures_stop_it_or_are_reported(run, example):
    folder = example("input")
    (folder / "images" / "1-rejected.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match="pair-1"):
        run(ID, preference_set="input: mine")
    pairs, pictures, report = run(ID, preference_set="input: mine", skip_bad=True).result
    assert len(pairs) == len(pictures) == 3
    assert "Left out 1:" in report and "pair-1" in report


def test_a_persons_picks_are_read_from_the_store(run, node_classes, comfy_folders):
    node = node_classes[ID]
    assert "person: me" in node.INPUT_TYPES()["optional"]["preference_set"][1]["options"]
    empty = run(ID, preference_set="person: me").result
    assert (empty[0], empty[2]) == ([], "person: me: 0 pairs on 0 prompts, 0 ties.")
    store = comfy_folders.module.taste_store()
    aki = store.add_person("Aki").id
    assert store.folder == comfy_folders.user / "__ppd" / "taste"
    assert f"person: {aki}" in node.INPUT_TYPES()["optional"]["preference_set"][1]["options"]
    assert node.fingerprint_inputs(None) != node.fingerprint_inputs(None)  # it comes from another node
    before = node.fingerprint_inputs("person: Aki")
    first, second = (
        Picture(comfy_folders.weights / "examples/warm/images" / f"0-{role}.png") for role in ("chosen", "rejected")
    )
    candidate = store.add_candidate(aki, "a lake", first, second)
    assert node.fingerprint_inputs("person: Aki") == before
    store.pick(candidate, "second", "r1")
    assert node.fingerprint_inputs("person: Aki") != before
    pairs, pictures, report = run(ID, preference_set="person: aki").result
    assert [(pair.prompt, pair.chosen.digest) for pair in pairs] == [("a lake", second.digest)]
    assert len(pictures) == 1 and "1 pair on 1 prompt," in report


def test_cancel_works_at_once(run):
    import comfy.model_management

    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(ID, preference_set="example: warm")
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(ID, preference_set="example: warm", user="nobody of these")


def test_the_fingerprint_is_the_content_and_quick(node_classes, example):
    folder = example("input")
    names = []
    values = []
    for number in range(1000):
        name = f"images/{number}.png"
        (folder / name).write_bytes(f"picture {number}".encode())
        names.append(name)
        values.append({"id": str(number), "prompt": "x", "chosen": name, "rejected": names[number - 1]})
    write_rows(folder, values)
    node = node_classes[ID]
    arguments = {"preference_set": "input: mine", "user": "", "limit": 1000, "skip_bad": False}
    first = node.fingerprint_inputs(**arguments)
    start = time.process_time()
    again = node.fingerprint_inputs(**arguments)
    assert time.process_time() - start < 0.1 * slowness()
    assert again == first
    (folder / names[0]).write_bytes(b"another picture")
    assert node.fingerprint_inputs(**arguments) != first
