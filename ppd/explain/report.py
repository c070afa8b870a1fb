"""All that is said of a taste and why, in one object that a page, a node and a JSON file can show, and in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..encoders.encoder import Told
from ..encoders.looks import Looks
from ..encoders.population import PopulationPrior
from ..encoders.statements import NINETY, Statement, statements
from ..pairs import counted
from .course import Drift, course, drifts
from .influence import answers_of, decided_otherwise, fit, leans, otherwise, parts_of, some, without

SAYING = 3
"""Answers named for a look, those that add most to it."""
AGAINST = 1
"""And so many of those that take most away."""
EARLY = 64
"""Answers below which most changes over time go unnoticed: half of them at 64 (benchmarks/explain.py)."""
MOST_LOOKS = 8
"""Looks that are explained: those that are sure or likely, then those that u leans to most clearly."""


@dataclass(frozen=True)
class Cause:
    """An answer that speaks for a look or against it: its number, counted from 0, its first `row` in what was told,
    what it `adds` to the lean, and what the lean would be `without` it."""

    answer: int
    row: int
    adds: float
    without: float


@dataclass(frozen=True)
class LookReport:
    """What is said of one look: the `statement` of the picks alone, and the `lean` of u with its 90 % interval, in
    log-odds of a pick for one step from low to high; `of_people` is the population's, before any pick. `course` holds
    (least, lean, most) at each point of the explanation's."""

    statement: Statement
    lean: float
    least: float
    most: float
    of_people: float
    causes: tuple[Cause, ...]
    course: tuple[tuple[float, float, float], ...]

    @property
    def leans_to(self) -> str:
        """The word of the side that u leans to."""
        return self.statement.high if self.lean > 0 else self.statement.low


@dataclass(frozen=True)
class DriftReport:
    """A look in which newer answers contradict older ones (`course.Drift`), `since` the number of the first newer
    answer among all."""

    look: str
    low: str
    high: str
    since: int
    p: float
    before: float
    now: float
    half_life: int


@dataclass(frozen=True)
class Explanation:
    """What `answers` answers say and why; `points` are the numbers of answers of the looks' courses."""

    answers: int
    noise: float
    looks: tuple[LookReport, ...]
    points: tuple[int, ...]
    drift: tuple[DriftReport, ...]

    @property
    def is_early(self) -> bool:
        """Whether there are answers, and too few for it to mean much that no change over time is told."""
        return 0 < self.answers < EARLY and not self.drift


@dataclass(frozen=True)
class Change:
    """A look of which something else would be said: its statements and leans as it is and as it would be."""

    before: Statement
    after: Statement
    lean_before: float
    lean_after: float


@dataclass(frozen=True)
class WhatIf:
    """What would be otherwise had one answer been: the share of pairs of pictures that would be `decided` otherwise by
    u, the looks of which another state or word would be `said`, and the change of every look."""

    decided: float
    said: tuple[Change, ...]
    all: tuple[Change, ...]


def explain(prior: PopulationPrior, looks: Looks, told: Told, is_dated: Tensor | None = None) -> Explanation:
    """The explanation of what somebody told; `is_dated` [n] leaves rows out of the course that belong to no moment, as
    a moodboard's, which come first."""
    parts, lean, answers = parts_of(prior, told), leans(looks, prior.noise), answers_of(told)
    dated = told if is_dated is None else some(told, is_dated)
    at, of_people, adds = lean @ parts.u, lean @ prior.mean.double(), parts.parts @ lean.T
    spread = ((lean @ parts.covariance) * lean).sum(1).clamp_min(0).sqrt()
    said = statements(looks, told.differences * prior.noise, told.outcomes, told.weights, told.choices)
    causes = {look: _causes(adds[:, look] * at[look].sign()) for look in _named(said, at, spread)}
    left_out = sorted({answer for found in causes.values() for answer in found})
    others = dict(zip(left_out, without(prior, told, left_out) @ lean.T, strict=True))
    over_time = course(prior, looks, dated)

    def report(look: int) -> LookReport:
        rows = [int((answers == answer).nonzero()[0]) for answer in causes[look]]
        return LookReport(
            statement=said[look],
            lean=float(at[look]),
            least=float(at[look] - NINETY * spread[look]),
            most=float(at[look] + NINETY * spread[look]),
            of_people=float(of_people[look]),
            causes=tuple(
                Cause(answer, row, float(adds[answer, look]), float(others[answer][look]))
                for answer, row in zip(causes[look], rows, strict=True)
            ),
            course=tuple(
                (float(low[look]), float(mean[look]), float(high[look]))
                for low, mean, high in zip(over_time.least, over_time.lean, over_time.most, strict=True)
            ),
        )

    before = len(adds) - over_time.answers[-1]
    drift = tuple(_drift(one, looks, before) for one in drifts(prior, looks, dated))
    return Explanation(len(adds), parts.noise, tuple(map(report, causes)), tuple(over_time.answers), drift)


def what_if(prior: PopulationPrior, looks: Looks, told: Told, row: int) -> WhatIf:
    """What would be otherwise had the rejected picture of a row been chosen: everything is fitted anew."""
    turned, lean = otherwise(told, row), leans(looks, prior.noise)
    (u, before), (other, after) = (
        (fit(prior, one)[0], statements(looks, one.differences * prior.noise, one.outcomes, one.weights, one.choices))
        for one in (told, turned)
    )
    changes = tuple(
        Change(one, other_one, float(lean_before), float(lean_after))
        for one, other_one, lean_before, lean_after in zip(before, after, lean @ u, lean @ other, strict=True)
    )
    said = tuple(
        one for one in changes if (one.before.state, one.before.prefers) != (one.after.state, one.after.prefers)
    )
    return WhatIf(decided_otherwise(u, other), said, changes)


def _named(said: Sequence[Statement], lean: Tensor, spread: Tensor) -> list[int]:
    """The looks to explain, the surest first."""
    order = {"sure": 0, "likely": 1}
    clear = (lean.abs() / spread.clamp_min(1e-12)).tolist()
    found = sorted(range(len(said)), key=lambda look: (order.get(said[look].state, 2), -clear[look]))
    return found[:MOST_LOOKS]


def _drift(one: Drift, looks: Looks, undated: int) -> DriftReport:
    """The drift of a look by its name, after so many answers that belong to no moment."""
    name, low, high = (words[one.look] for words in (looks.names, looks.low, looks.high))
    return DriftReport(name, low, high, one.since + undated, one.p, one.before, one.now, one.half_life)


def _causes(adds: Tensor) -> list[int]:
    """The answers that add most [a], the strongest first, and of those that take away the strongest."""
    order = adds.argsort(descending=True, stable=True).tolist()
    saying = [answer for answer in order[:SAYING] if adds[answer] > 0]
    return saying + [answer for answer in order[::-1][:AGAINST] if adds[answer] < 0]


def share(lean: float) -> int:
    """Of 100 pairs of pictures that are one step apart, in how many the high side's is chosen."""
    return round(100 / (1 + math.exp(-lean)))


def in_words(found: Explanation) -> list[str]:
    """The explanation in sentences; answers are counted from 1."""
    if not found.answers:
        return ["No picks yet, so there is nothing to explain."]
    lines = [f"Of {counted(found.answers, 'pick')}."]
    for one in found.looks:
        sure = {"sure": "", "likely": "perhaps "}.get(one.statement.state, "not known, leans to ")
        flip = 1 if one.lean > 0 else -1
        ends = sorted((share(flip * one.least), share(flip * one.most)))
        lines.append(
            f"{one.statement.name}: {sure}{one.leans_to}. Of 100 pairs that differ in it: {share(flip * one.lean)} "
            f"({ends[0]} to {ends[1]}); the average person: {share(flip * one.of_people)}."
        )
        for does, sign in (("say so", 1), ("speaks against it", -1)):
            named = [cause for cause in one.causes if cause.adds * flip * sign > 0]
            if named:
                picks = ", ".join(f"{cause.answer + 1} (without it {share(flip * cause.without)})" for cause in named)
                lines.append(f"  {'Picks' if sign > 0 else 'Pick'} that {does}: {picks}.")
    lines += [
        f"Changed: {one.look}. Until pick {one.since} {_side(one, one.before)}, since then {_side(one, one.now)}; in "
        f"shuffled orders as clear in {one.p:.1%}. Let old picks fade, half after {one.half_life} newer ones?"
        for one in found.drift
    ]
    if found.is_early:
        lines.append(f"No change over time was seen; with fewer than {EARLY} picks most changes would be missed.")
    return lines


def what_if_in_words(found: WhatIf, answer: int) -> list[str]:
    """The same for one answer answered otherwise."""
    lines = [f"Had pick {answer + 1} been the other one, {found.decided:.0%} of pairs would be decided otherwise."]
    lines += [
        f"  {one.before.name}: {_said(one.before)} would be {_said(one.after)}, "
        f"{share(one.lean_before)} of 100 for {one.before.high} would be {share(one.lean_after)}."
        for one in found.said
    ]
    return lines if found.said else [*lines, "  Nothing else would be said of you."]


def _said(one: Statement) -> str:
    return f"{one.state} {one.prefers}".strip()


def _side(one: DriftReport, lean: float) -> str:
    word = one.high if lean > 0 else one.low
    return f"{word} ({share(abs(lean))} of 100)"
