"""Pictures against a brand guide: which rules each keeps, and where it breaks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..encoders.looks import Looks
from ..pairs import counted
from .colours import delta_e, lab, luminance, rgb_of
from .guide import Colour, Contrast, Free, Guide, LookRule, Object, Rule
from .probes import Probe

SIDE = 256
"""Pixels of the longer side at which colours and edges are measured, so that a picture's size changes no verdict."""
EDGE = 6.0
"""Of lightness L*, 0 to 100, from one such pixel to the next: from here on it is an edge."""
PLACE_SIDE = 512
"""Pixels of the longer side at which it is looked for where a thing is: 64 copies of a picture are made for it."""
CELLS = 8
"""A side of the grid of patches that are greyed out to see where a thing is."""
OUTCOMES = ("passes", "warns", "stops")

Mask = NDArray[np.bool_]
Amounts = Callable[[Sequence[Tensor]], Tensor]
"""Pictures [H, W, C] to how much of each look they have [n, looks], in steps from the middle picture."""


@dataclass(frozen=True)
class Result:
    """One rule on one picture: whether it is kept, what was measured, in words, and where it is broken: a mask of any
    size over the picture, None where that is nowhere in particular."""

    rule: Rule
    kept: bool
    said: str
    where: Mask | None = None


@dataclass(frozen=True)
class Verdict:
    """All rules on one picture, in the guide's order."""

    results: tuple[Result, ...]

    @property
    def outcome(self) -> str:
        """One of OUTCOMES."""
        broken = [result.rule.level for result in self.results if not result.kept]
        return OUTCOMES[2 if set(broken) - {"should"} else 1 if broken else 0]


def check_brand(
    guide: Guide,
    pictures: Sequence[Tensor],
    probe: Probe | None = None,
    looks: Looks | None = None,
    amounts: Amounts | None = None,
) -> list[Verdict]:
    """A verdict of each picture [H, W, 3] in 0..1. Rules on objects need a `probe`, on looks `looks` and `amounts`;
    without, they are a ValueError and never passed over."""
    if guide.objects and probe is None:
        raise ValueError(
            f"The guide names {guide.objects[0]}: choose what looks for objects, such as an open_clip model."
        )
    if guide.looks and (looks is None or amounts is None):
        raise ValueError(f"The guide names the look {guide.looks[0].word}: choose a taste encoder that tells looks.")
    ends = {rule: look_end(looks, rule.word) for rule in guide.looks if looks is not None}
    scores = (
        probe.scores(pictures, guide.objects) if probe is not None and guide.objects else torch.zeros(len(pictures), 0)
    )
    steps = amounts(pictures) if amounts is not None and guide.looks else torch.zeros(len(pictures), 0)
    verdicts = []
    for picture, score, amount in zip(pictures, scores, steps, strict=True):
        rgb = _small(picture, SIDE).double().numpy()
        results = []
        for rule in guide.rules:
            match rule:
                case Colour():
                    results.append(_colour(rule, rgb))
                case Contrast():
                    results.append(_contrast(rule, rgb))
                case Free():
                    results.append(_free(rule, rgb))
                case Object():
                    assert probe is not None
                    results.append(_object(rule, float(score[guide.objects.index(rule.word)]), probe, picture))
                case LookRule():
                    index, sign = ends[rule]
                    results.append(_look(rule, sign * float(amount[index])))
        verdicts.append(Verdict(tuple(results)))
    return verdicts


def look_end(looks: Looks, word: str) -> tuple[int, float]:
    """Which look a word is an end of, and whether of the high (1) or the low one (-1)."""
    japanese = looks.japanese or [("", "")] * len(looks)
    ends = enumerate(zip(looks.low, looks.high, japanese, strict=True))
    for index, (low, high, (low_ja, high_ja)) in ends:
        if word.casefold() in (high.casefold(), high_ja):
            return index, 1.0
        if word.casefold() in (low.casefold(), low_ja):
            return index, -1.0
    raise ValueError(
        f"The taste encoder tells no look {word!r}: expected one of {', '.join((*looks.low, *looks.high))}; use such a "
        "word in the guide, or another encoder."
    )


def report_of(guide: Guide, verdicts: Sequence[Verdict]) -> str:
    """For people: how many pass, each rule and who keeps it, and each picture that does not pass."""
    outcomes = [verdict.outcome for verdict in verdicts]
    lines = [
        f"{guide.name}: {counted(len(verdicts), 'picture')}, passing {outcomes.count('passes')}, warned "
        f"{outcomes.count('warns')}, stopped {outcomes.count('stops')}."
    ]
    for at, rule in enumerate(guide.rules):
        kept = sum(verdict.results[at].kept for verdict in verdicts)
        lines.append(f"{at + 1}. {rule}; kept by {kept} of {len(verdicts)}")
    for number, verdict in enumerate(verdicts, 1):
        broken = [f"{at} ({one.said})" for at, one in enumerate(verdict.results, 1) if not one.kept]
        lines += [f"Number {number} {verdict.outcome}: {', '.join(broken)}"] if broken else []
    return "\n".join(lines)


def _small(picture: Tensor, side: int) -> Tensor:
    """A picture [H, W, C] in 0..1 as [h, w, 3] on the CPU, its longer side `side` at most."""
    x = picture[..., :3].detach().cpu().float().clamp(0, 1).movedim(-1, 0)[None]
    scale = side / max(x.shape[-2:])
    if scale < 1:
        shape = [max(1, round(length * scale)) for length in x.shape[-2:]]
        x = F.interpolate(x, shape, mode="area")
    return x[0].movedim(0, -1)


def _colour(rule: Colour, rgb: NDArray[np.float64]) -> Result:
    near = delta_e(lab(rgb), lab(rgb_of("colour", rule.colour))) <= rule.delta_e
    share = float(near.mean())
    said = f"{rule.colour} in {100 * share:.1f} % of the picture"
    if rule.level == "never":
        return Result(rule, share <= rule.area, said, near)
    return Result(rule, share >= rule.area, said)


def _contrast(rule: Contrast, rgb: NDArray[np.float64]) -> Result:
    dark, light = np.percentile(luminance(rgb), [5, 95])
    ratio = float((light + 0.05) / (dark + 0.05))
    return Result(rule, ratio >= rule.ratio, f"contrast {ratio:.1f}")


def _free(rule: Free, rgb: NDArray[np.float64]) -> Result:
    height, width = rgb.shape[:2]
    left, top, wide, high = rule.box
    x0, y0 = int(left * width), int(top * height)
    x1, y1 = max(x0 + 2, round((left + wide) * width)), max(y0 + 2, round((top + high) * height))
    lightness = lab(rgb)[..., 0]
    steps = np.zeros_like(lightness)
    steps[:, 1:] = np.abs(np.diff(lightness, axis=1))
    steps[1:] = np.maximum(steps[1:], np.abs(np.diff(lightness, axis=0)))
    part = steps[y0 + 1 : y1, x0 + 1 : x1]  # what is told from the pixel before lies inside, too
    share = float((part >= EDGE).mean()) if part.size else 0.0
    where = np.zeros((height, width), dtype=bool)
    where[y0:y1, x0:x1] = True
    return Result(rule, share <= rule.edges, f"edges in {100 * share:.1f} % of the free place", where)


def _look(rule: LookRule, amount: float) -> Result:
    there = amount >= rule.by
    return Result(rule, there != (rule.level == "never"), f"{rule.word} by {amount:+.1f}")


def _object(rule: Object, score: float, probe: Probe, picture: Tensor) -> Result:
    there = score > 0
    if rule.level != "never":
        return Result(rule, there, f"{rule.word} is {'there' if there else 'missing'}")
    where = _place_of(rule.word, probe, picture) if there else None
    return Result(rule, not there, f"{rule.word} is {'there' if there else 'not there'}", where)


def _place_of(word: str, probe: Probe, picture: Tensor) -> Mask:
    """Where a thing is, [CELLS, CELLS]: patches that, greyed out, take at least half as much from its score as the
    strongest does (occlusion, Zeiler and Fergus 2014). A patch reaches half a cell into its neighbours."""
    picture = _small(picture, PLACE_SIDE)
    height, width = picture.shape[:2]
    hidden = []
    for row in range(CELLS):
        for column in range(CELLS):
            y0, y1 = (int(max(0.0, row + d) * height / CELLS) for d in (-0.5, 1.5))
            x0, x1 = (int(max(0.0, column + d) * width / CELLS) for d in (-0.5, 1.5))
            covered = picture.clone()
            covered[y0:y1, x0:x1] = picture.mean((0, 1))
            hidden.append(covered)
    scores = probe.scores([picture, *hidden], [word])[:, 0]
    drops = (scores[0] - scores[1:]).view(CELLS, CELLS).numpy()
    return drops >= max(1e-6, 0.5 * float(drops.max()))
