"""Prompts out of graphs as they stand in pictures, and out of A1111's lines."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest

from ppd.graph_prompts import LONGEST, prompt_of_graph, prompt_of_parameters


def graph(**nodes):
    """A graph in the API's format out of the inputs of nodes by their ids."""
    return {number: {"class_type": "Any", "inputs": inputs} for number, inputs in nodes.items()}


SAMPLED = graph(
    loader={"ckpt_name": "text.safetensors"},
    wanted={"text": "a red fox", "clip": ["loader", 1]},
    unwanted={"text": "blurry", "clip": ["loader", 1]},
    sampler={"model": ["loader", 0], "seed": 3, "positive": ["wanted", 0], "negative": ["unwanted", 0]},
    decoded={"samples": ["sampler", 0], "vae": ["loader", 2]},
    saved={"images": ["decoded", 0], "filename_prefix": "sub/fox"},
)


def asked(nodes, name="fox_00001_.png"):
    return prompt_of_graph(json.dumps(nodes), name)


def changed(**nodes):
    return {**SAMPLED, **graph(**nodes)}


@pytest.mark.parametrize(
    ("nodes", "prompt"),
    [
        ({}, "a red fox"),
        ({"wanted": {"text": ["primitive", 0]}, "primitive": {"value": "a linked fox"}}, "a linked fox"),
        ({"wanted": {"text_g": "an SDXL fox", "text_l": "fox", "clip": ["loader", 1]}}, "an SDXL fox"),
        ({"wanted": {"clip_l": "fox", "t5xxl": "a fox as Flux reads it", "guidance": 3.5}}, "a fox as Flux reads it"),
        ({"wanted": {"clip": ["loader", 1], "prompt": "an edited fox", "image": ["loader", 0]}}, "an edited fox"),
        # Through what stands between encoder and sampler, and never along what is not wanted
        (
            {
                "sampler": {"positive": ["control", 0], "negative": ["control", 1]},
                "control": {"negative": ["unwanted", 0], "positive": ["wanted", 0], "image": ["loader", 0]},
            },
            "a red fox",
        ),
        (
            {
                "sampler": {"positive": ["both", 0]},
                "both": {"conditioning_1": ["area", 0], "conditioning_2": ["unwanted", 0]},
                "area": {"conditioning": ["wanted", 0], "width": 64},
            },
            "a red fox",
        ),
        # SamplerCustomAdvanced
        (
            {
                "sampler": {"noise": ["loader", 0], "guider": ["guider", 0], "latent_image": ["loader", 0]},
                "guider": {"model": ["loader", 0], "conditioning": ["guided", 0]},
                "guided": {"conditioning": ["wanted", 0], "guidance": 3.5},
            },
            "a red fox",
        ),
        # A picture that is painted over: the last sampler says what it is
        (
            {
                "decoded": {"samples": ["second", 0]},
                "second": {"latent_image": ["sampler", 0], "positive": ["better", 0]},
                "better": {"text": "a better fox"},
            },
            "a better fox",
        ),
        (
            {
                "wanted": {"text": ["joined", 0]},
                "joined": {"string_a": ["part", 0], "string_b": ["part", 0], "delimiter": ", "},
                "part": {"value": "fox"},
            },
            "fox, fox",
        ),
        ({"wanted": {"text": ["wild", 0]}, "wild": {"wildcard_text": "{a|b}", "populated_text": "a"}}, "a"),
        # Loaders that take the text themselves
        ({"sampler": {"pipe": ["pipe", 0]}, "pipe": {"ckpt_name": "x", "positive": "a piped fox"}}, "a piped fox"),
        ({"decoded": {"prompt": "a fox from afar", "seed": 1}}, "a fox from afar"),
        ({"wanted": {"text": "  ", "clip": ["loader", 1]}}, ""),
        ({"wanted": {"text": 7}}, ""),
        ({"decoded": {"image": "photo.png"}}, ""),
        ({"wanted": {"text": "x" * (LONGEST + 5)}}, "x" * LONGEST),
    ],
)
def test_the_prompt_behind_the_sampler(nodes, prompt):
    assert asked(changed(**nodes)) == prompt


def test_of_several_prompts_the_files_name_tells_which():
    other: dict[str, Any] = {
        "wanted2": {"text": "a blue hare"},
        "sampler2": {"positive": ["wanted2", 0]},
        "saved2": {"images": ["sampler2", 0], "filename_prefix": "hare%width%x%height%"},
    }
    assert asked(changed(**other)) == "a red fox"
    assert asked(changed(**other), "hare64x64_00012_.png") == "a blue hare"
    assert asked(changed(**other), "renamed.png") == ""
    other["wanted2"]["text"] = "a red fox"
    assert asked(changed(**other), "renamed.png") == "a red fox"


def test_what_is_saved_on_the_way_counts_and_what_only_reports_does_not():
    on = {"shown": {"images": ["saved", 0]}, "report": {"source": ["other", 0]}, "other": {"prompt": "not me"}}
    assert asked(changed(**on)) == "a red fox"


def test_loops_end():
    loop = {"wanted": {"conditioning": ["more", 0]}, "more": {"conditioning": ["wanted", 0], "text": ["wanted", 0]}}
    assert asked(changed(**loop)) == ""
    assert asked(changed(sampler={"latent_image": ["decoded", 0], "samples": ["sampler", 0]})) == ""


def test_graphs_of_any_depth_and_width_end():
    deep = {f"n{number}": {"conditioning": [f"n{number + 1}", 0]} for number in range(20_000)}
    assert asked(changed(sampler={"positive": ["n0", 0]}, **deep)) == ""
    wide = {
        f"n{number}": {name: [f"n{number + 1}", 0] for name in ("a", "b", "c", "d")} for number in range(60)
    }  # 4^60 ways
    assert asked(changed(sampler={"positive": ["n0", 0]}, **wide)) == ""


def joined(number, *sources, delimiter=""):
    """ComfyUI's StringConcatenate of two nodes."""
    return {f"n{number}": {"string_a": [sources[0], 0], "string_b": [sources[-1], 0], "delimiter": delimiter}}


def doubling(nodes):
    """A node put together with itself, and that with itself, and so on."""
    chain = {f"n{number}": {} for number in range(nodes)}
    for number in range(nodes):
        chain |= joined(number, f"n{number + 1}" if number < nodes - 1 else "word")
    return changed(wanted={"text": ["n0", 0]}, word={"value": "fox, "}, **chain)


def tree(leaves):
    """Texts of the largest length, different ones, put together two by two."""
    nodes = {f"n{number}": {} for number in range(1, 2 * leaves)}
    for number in range(1, leaves):
        nodes |= joined(number, f"n{2 * number}", f"n{2 * number + 1}", delimiter="-" * number)
    for number in range(leaves, 2 * leaves):
        nodes |= joined(number, "word", delimiter="x" * (number % 100))
    return changed(wanted={"text": ["n1", 0]}, word={"value": "狐" * LONGEST}, **nodes)


def savers(count, prefix="{}", **inputs):
    """Nodes that save, each what the one before it hands on."""
    names = ["decoded", *(f"s{number}" for number in range(count))]
    return {
        after: {"images": [before, 0], "filename_prefix": prefix.format(after), **inputs}
        for before, after in zip(names, names[1:], strict=False)
    }


TWO = {"other": {"positive": "a hare"}, "saved2": {"images": ["other", 0], "filename_prefix": "hare"}}
"""A second picture of other words, so that the name must tell."""


@pytest.mark.parametrize(
    ("nodes", "name", "prompt"),
    [
        (doubling(28), "fox_00001_.png", ("fox, " * LONGEST)[:LONGEST].strip()),
        (doubling(80), "fox_00001_.png", ("fox, " * LONGEST)[:LONGEST].strip()),
        (tree(2048), "fox_00001_.png", ""),
        (changed(saved={"images": ["decoded", 0], "filename_prefix": "%%" * 2000}, **TWO), "f" * 204, ""),
        (
            changed(saved={"images": ["decoded", 0], "filename_prefix": "%%_1" * 90 + "_%%"}, **TWO),
            "_1" * 100 + "_1_.png",
            "a red fox",
        ),
        (changed(**savers(4000)), "fox_00001_.png", "a red fox"),
        (changed(decoded={"prompt": "a far fox"}, **savers(4000, prompt="title")), "fox_00001_.png", "a far fox"),
        (changed(**savers(4000, "%%{}"), **TWO), "_1" * 100 + "hare_1_.png", ""),
        (changed(sampler={"positive": "狐" * 100_000}, **savers(4000)), "fox_00001_.png", "狐" * LONGEST),
    ],
    ids=["doubling", "more doubling", "tree", "%%", "counters", "savers", "services", "prefixes", "long"],
)
def test_no_graph_takes_long_or_much_memory(nodes, name, prompt):
    text = json.dumps(nodes)
    start = time.process_time()
    assert prompt_of_graph(text, name) == prompt
    assert time.process_time() - start < 1
    tracemalloc.start()
    try:
        prompt_of_graph(text, name)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"1": 7}', '{"1": {"inputs": 7}}', '{"1": {}}', "[" * 100_000, '{"a": NaN}']
)
def test_damaged_graphs_say_nothing(text):
    assert prompt_of_graph(text, "a.png") == ""


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("a fox\nwith a hat\nNegative prompt: blurry\nSteps: 20", "a fox\nwith a hat"),
        ("a fox\nSteps: 20, Sampler: Euler", "a fox"),
        ("Negative prompt: blurry\nSteps: 20", ""),
        ("Steps to the sea, oil painting", "Steps to the sea, oil painting"),
        ("", ""),
    ],
)
def test_a1111_parameters(text, prompt):
    assert prompt_of_parameters(text) == prompt
