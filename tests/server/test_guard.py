"""The template that checks a taste, in a real server: what goes on, what is marked, and nothing where none passes."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.comfyui
NAME = "check a taste"
PROMPTS = "a house on a meadow under the sun\na tree on a meadow under the sun\na tree by a lake under the sun"


@pytest.fixture
def few(server, graphs):
    """The template's graph with three prompts of its own."""
    return graphs.set_inputs(server.prompt(NAME), "PPD_CheckPrompts", prompts="own", own_prompts=PROMPTS)


def test_what_keeps_the_guide_goes_on_and_all_are_marked(server, graphs, few):
    entry = server.run(few)
    (check,), (leak,) = (graphs.nodes_of(few, kind) for kind in ("PPD_BrandCheck", "PPD_CheckLeakage"))
    report = entry["outputs"][check]["text"][0].splitlines()
    assert report[0].startswith("Sea and sun: 3 pictures, ") and "1. never: a house; kept by 2 of 3" in report
    stopped = sum(" stops: " in line for line in report)
    ((saved, pictures),) = server.pictures(entry).items()
    assert saved in graphs.nodes_of(few, "SaveImage") and pictures.shape == (3 - stopped, 128, 128, 3) and stopped >= 1
    (marked,) = graphs.nodes_of(few, "PreviewImage")
    assert len(entry["outputs"][marked]["images"]) == 3
    assert entry["outputs"][leak]["text"][0].startswith("Passed: ")
    (painter,) = graphs.nodes_of(few, "PersonalizedDenoiser")  # which has run three times, and tells it once
    (told,) = entry["outputs"][painter]["text"]
    assert told.startswith("Paints for 4 picks at strength 1.\n(") and "qwen" not in told


def test_where_nothing_passes_the_rest_of_the_graph_rests(server, graphs, few):
    rules = [{"level": "must", "colour": "#ff00ff", "delta_e": 2, "area": 0.9}]
    guide = {"format": "ppd-brand-guide", "version": "1", "name": "Pink", "rules": rules}
    (server.base / "input" / "pink.brand.json").write_text(json.dumps(guide))
    entry = server.run(graphs.set_inputs(few, "PPD_BrandCheck", guide="input: pink.brand.json"))
    (check,) = graphs.nodes_of(few, "PPD_BrandCheck")
    assert entry["outputs"][check]["text"][0].startswith("Pink: 3 pictures, passing 0, warned 0, stopped 3.")
    assert server.pictures(entry) == {}


def test_a_damaged_guide_is_one_sentence_on_its_node(server, graphs, few):
    (server.base / "input" / "bad.brand.json").write_text('{"format": "ppd-brand-guide", "version": "1", "rules": 3}')
    prompt = graphs.set_inputs(few, "PPD_BrandCheck", guide="input: bad.brand.json")
    entry = server.finished(server.submit(prompt))
    (error,) = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
    assert error["exception_message"].strip() == "bad.brand.json: expected a list of 1 to 64 rules, got 3."
