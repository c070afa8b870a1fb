"""What a picture was asked to be, out of what painting programs write into it: ComfyUI's graph, A1111's parameters.

A graph says it nowhere outright. Upstream of the node that saved the picture the nearest sampler has a positive
conditioning, or a guider that has one; behind that are text encoders of whatever class, and nodes that make text.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
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
_END = re.compile(r"(?:^|\n)(?:Negative prompt:|Steps:)")

Inputs = dict[str, Any]


def prompt_of_parameters(text: str) -> str:
    """The prompt in A1111's and Forge's lines: what stands before the negative prompt, or before the settings."""
    return _END.split(text, maxsplit=1)[0].strip()[:LONGEST]


def prompt_of_graph(text: str, file_name: str = "") -> str:
    """The prompt in a graph in the API's format as JSON, for the picture of a file name.

    "" where it says none, or where pictures of one graph were asked for in different words and the name does not tell
    which of them this is; so too for what is damaged, or deeper than Python's stack.
    """
    try:
        graph = _Graph(json.loads(text))
        asked = {number: graph.asked_of(number) for number in graph.ends()}
    except (ValueError, RecursionError):
        return ""
    if len(set(asked.values())) > 1:
        asked = {number: said for number, said in asked.items() if _saves(graph.inputs[number], file_name)}
    return asked.popitem()[1].strip()[:LONGEST] if len(set(asked.values())) == 1 else ""


class _Graph:
    """Inputs of nodes by their ids. What a node says is worked out once, so that loops end and no way is gone twice."""

    def __init__(self, graph: Any) -> None:
        nodes = graph.items() if isinstance(graph, dict) else ()
        found = {number: node.get("inputs") for number, node in nodes if isinstance(node, dict)}
        self.inputs: dict[str, Inputs] = {number: one for number, one in found.items() if isinstance(one, dict)}
        self._said: dict[str, str] = {}

    def ends(self) -> list[str]:
        """Nodes that save pictures, or show them and hand nothing on."""
        linked = {source for inputs in self.inputs.values() for source in self._sources(inputs)}
        return [
            number
            for number, inputs in self.inputs.items()
            if any(self._source(inputs.get(name)) for name in PICTURES)
            and ("filename_prefix" in inputs or number not in linked)
        ]

    def asked_of(self, end: str) -> str:
        """The prompt of the pictures that come to a node."""
        for number in self._upstream(end):
            wanted = next((name for name in WANTED if name in self.inputs[number]), None)
            if wanted is not None:
                return self._text(self.inputs[number][wanted])
        # Those of services paint by a text themselves; the end's own may be a title
        painters = (number for number in self._upstream(end) if number != end and "prompt" in self.inputs[number])
        return next((said for number in painters if (said := self._text(self.inputs[number]["prompt"]))), "")

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
            return self._text(inputs["delimiter"]).join(self._text(inputs[name]) for name in ("string_a", "string_b"))
        named = [name for name in (*TEXTS, *VALUES, *WANTED) if name in inputs]
        named += [name for name in inputs if name.startswith("cond") and name not in named]
        others = [name for name, value in inputs.items() if name != "negative" and self._source(value)]
        texts = (self._text(inputs[name]) for name in named or others)
        return next((text for text in texts if text.strip()), "")

    def _upstream(self, start: str) -> Iterator[str]:
        """A node and all that it is made of, the nearest first."""
        waiting, seen = deque([start]), {start}
        while waiting:
            yield (number := waiting.popleft())
            new = [source for source in self._sources(self.inputs[number]) if source not in seen]
            seen.update(new)
            waiting.extend(dict.fromkeys(new))

    def _sources(self, inputs: Inputs) -> list[str]:
        return [source for value in inputs.values() if (source := self._source(value)) is not None]

    def _source(self, value: Any) -> str | None:
        """The node that a value comes from; None where it is no link."""
        is_link = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
        return value[0] if is_link and value[0] in self.inputs else None


def _saves(inputs: Inputs, file_name: str) -> bool:
    """Whether a node gives its files such names; what stands between % is filled in when it saves."""
    prefix = inputs.get("filename_prefix")
    if not isinstance(prefix, str):
        return False
    parts = re.split(r"%[^%]*%", prefix.replace("\\", "/").rpartition("/")[2])
    return re.match(".*".join(map(re.escape, parts)) + r"_\d+_", file_name) is not None
