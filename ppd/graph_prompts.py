"""What a picture was asked to be, out of what painting programs write into it: ComfyUI's graph, A1111's parameters.

A graph says it nowhere outright. Upstream of the node that saved the picture the nearest sampler has a positive
conditioning, or a guider that has one; behind that are text encoders of whatever class, and nodes that make text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

LONGEST = 10_000
"""Letters of a prompt."""
WANTED = ("positive", "guider", "conditioning", "cond1")
"""Inputs by which what is wanted comes into samplers and guiders, and through nodes between."""
TEXTS = ("populated_text", "text", "prompt", "positive_prompt", "t5xxl", "text_g", "clip_l", "text_l", "clip_g")
"""Inputs of text encoders, and of nodes that paint by a text without one."""
VALUES = ("value", "string", "text_a", "text1")
"""Inputs of nodes that make text."""
PICTURES = ("images", "image")
"""Inputs of nodes that save and show pictures."""
MADE = 100 * LONGEST
"""Letters that a graph's nodes may put together in all; what needs more is no prompt."""
_END = re.compile(r"(?:^|\n)(?:Negative prompt:|Steps:)")
_FILLED_IN = re.compile(r"%[^%]*%")
_COUNTER = re.compile(r"_(?=\d+_)")

Inputs = dict[str, Any]


def prompt_of_parameters(text: str) -> str:
    """The prompt in A1111's and Forge's lines: what stands before the negative prompt, or before the settings."""
    return _END.split(text, maxsplit=1)[0].strip()[:LONGEST]


def prompt_of_graph(text: str, file_name: str = "") -> str:
    """The prompt in a graph in the API's format as JSON, for the picture of a file name.

    "" where it says none, or where pictures of one graph were asked for in different words and the name does not tell
    which of them this is; so too for what is damaged, or deeper than Python's stack. Takes time in proportion to the
    text's length, whatever the graph.
    """
    try:
        graph = _Graph(json.loads(text))
        asked = {number: graph.asked_of(number) for number in graph.ends}
    except (ValueError, RecursionError):
        return ""
    if len(set(asked.values())) > 1:
        asked = {number: said for number, said in asked.items() if _saves(graph.inputs[number], file_name)}
    return asked.popitem()[1].strip() if len(set(asked.values())) == 1 else ""


class _Graph:
    """Inputs of nodes by their ids, long texts cut. What a node says, and what is nearest to it, is worked out once, so
    that loops end and no way is gone twice."""

    def __init__(self, graph: Any) -> None:
        nodes = graph.items() if isinstance(graph, dict) else ()
        found = {number: node.get("inputs") for number, node in nodes if isinstance(node, dict)}
        self.inputs: dict[str, Inputs] = {
            number: {name: value[:LONGEST] if isinstance(value, str) else value for name, value in one.items()}
            for number, one in found.items()
            if isinstance(one, dict)
        }
        self._said: dict[str, str] = {}
        self._made = 0

    @cached_property
    def ends(self) -> dict[str, None]:
        """Nodes that save pictures, or show them and hand nothing on."""
        return {
            number: None
            for number, inputs in self.inputs.items()
            if any(self._source(inputs.get(name)) for name in PICTURES)
            and ("filename_prefix" in inputs or number not in self._users)
        }

    def asked_of(self, end: str) -> str:
        """The prompt of the pictures that come to a node."""
        if end in self._nearest_sampler:
            inputs = self.inputs[self._nearest_sampler[end]]
            return self._text(inputs[next(name for name in WANTED if name in inputs)])
        painter = self._nearest_painter.get(end)
        return "" if painter is None else self._text(self.inputs[painter]["prompt"])

    @cached_property
    def _nearest_sampler(self) -> dict[str, str]:
        return self._nearest(number for number, inputs in self.inputs.items() if not inputs.keys().isdisjoint(WANTED))

    @cached_property
    def _nearest_painter(self) -> dict[str, str]:
        """Nodes of services paint by a text themselves; that of an end may be a title."""
        return self._nearest(
            number
            for number, inputs in self.inputs.items()
            if number not in self.ends and self._text(inputs.get("prompt"))
        )

    def _nearest(self, goals: Iterable[str]) -> dict[str, str]:
        """By node which of the goals is the nearest upstream, the node itself counted; of several the first in the
        order of inputs."""
        found = {goal: goal for goal in goals}
        last = list(found)
        while last:
            new = [user for number in last for user in self._users.get(number, ()) if user not in found]
            level = {user: next(found[one] for one in self._sources[user] if one in found) for user in new}
            found.update(level)
            last = list(level)
        return found

    def _text(self, value: Any) -> str:
        """The text that an input has, or gets from other nodes."""
        source = self._source(value)
        if source is None:
            return value if isinstance(value, str) else ""
        if source not in self._said:
            self._said[source] = ""  # what leads back here says nothing
            self._said[source] = self._made_by(self.inputs[source])
        return self._said[source]

    def _made_by(self, inputs: Inputs) -> str:
        if {"string_a", "string_b", "delimiter"} <= set(inputs):  # ComfyUI's StringConcatenate
            parts = (self._text(inputs[name]) for name in ("string_a", "string_b"))
            return self._counted(self._text(inputs["delimiter"]).join(parts)[:LONGEST])
        named = [name for name in (*TEXTS, *VALUES, *WANTED) if name in inputs]
        named += [name for name in inputs if name.startswith("cond") and name not in named]
        others = [name for name, value in inputs.items() if name != "negative" and self._source(value)]
        texts = (self._text(inputs[name]) for name in named or others)
        return next((text for text in texts if text.strip()), "")

    def _counted(self, text: str) -> str:
        self._made += len(text)
        if self._made > MADE:
            raise ValueError(f"Expected a graph that puts together at most {MADE} letters.")
        return text

    @cached_property
    def _sources(self) -> dict[str, list[str]]:
        """By node the nodes that its inputs come from."""
        return {
            number: [source for value in inputs.values() if (source := self._source(value)) is not None]
            for number, inputs in self.inputs.items()
        }

    @cached_property
    def _users(self) -> dict[str, list[str]]:
        """By node the nodes that take something from it."""
        found: dict[str, list[str]] = {}
        for number, sources in self._sources.items():
            for source in sources:
                found.setdefault(source, []).append(number)
        return found

    def _source(self, value: Any) -> str | None:
        """The node that a value comes from; None where it is no link."""
        is_link = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
        return value[0] if is_link and value[0] in self.inputs else None


def _saves(inputs: Inputs, file_name: str) -> bool:
    """Whether a node gives its files such names; what stands between % is filled in when it saves."""
    prefix = inputs.get("filename_prefix")
    if not isinstance(prefix, str):
        return False
    *parts, last = _FILLED_IN.split("/" + prefix.replace("\\", "/").rpartition("/")[2])  # / stands at the start alone
    name, end = "/" + file_name, 0
    for part in parts:
        start = name.find(part, end)
        if start < 0:
            return False
        end = start + len(part)
    return any(name.endswith(last, end, counter.start()) for counter in _COUNTER.finditer(name, end))
