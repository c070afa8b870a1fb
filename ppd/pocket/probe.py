"""A pocket's own probe: the classifier of its objects, where no tower has a text side."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from ..guard.probes import FixedProbe
from . import scenes
from .classifier import ObjectClassifier


def object_probe(path: Path) -> FixedProbe:
    """The classifier of a file of weights: it knows the kinds of object of scenes.py, on the CPU."""
    classifier = ObjectClassifier()
    classifier.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    classifier.eval().requires_grad_(False)
    return FixedProbe(scenes.KINDS, classifier, scenes.SIZE)
