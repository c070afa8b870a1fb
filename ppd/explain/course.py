"""How a taste went: what each look was known by after the first picks, and whether newer picks contradict older ones.

The course is the posterior of the first answers for more and more of them, as it stood then. Drift is a change point in
the scores of a look: of each answer, how far its pictures were apart in the look times how little the posterior of all
answers expects it. Where the taste stayed they average to the same before and after any answer (score test; CUSUM: Page
1954). The largest difference over all change points and looks is compared with what it is when the answers are shuffled
(maxT: Westfall and Young 1993), so that all looks together raise a false alarm as often as ALARM says. Questions that
were chosen by earlier answers are not quite exchangeable; `benchmarks.explain` measures that it makes no difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..encoders.encoder import Told
from ..encoders.looks import Looks
from ..encoders.population import PopulationPrior
from ..encoders.statements import NINETY
from .influence import answers_of, fit, leans, parts_of, some

POINTS = 24
"""At most so many points of a course; a browser draws no more."""
ALARM = 0.02
"""How often somebody whose taste stays is told of a drift, at one look at it; `benchmarks.explain` measures it."""
LEAST_HALF_LIFE = 8
"""Answers: faster fading costs more than it brings (`benchmarks.explain`)."""
SHUFFLES = 999
LEAST = 4
"""Answers before and after a change, at least."""
SEED = 0


@dataclass(frozen=True, eq=False)
class Course:
    """After `answers` [m] answers the `lean` [m, k] to each look and its 90 % interval, `least` and `most` [m, k]."""

    answers: list[int]
    lean: Tensor
    least: Tensor
    most: Tensor


@dataclass(frozen=True)
class Drift:
    """The lean to a look changed: `look` its index, `since` the number of the first newer answer, counted from 0,
    `p` the share of shuffled orders with as large a change in any look, `before` and `now` the leans by the older and
    the newer answers alone, `half_life` what to fade by, in answers."""

    look: int
    since: int
    p: float
    before: float
    now: float
    half_life: int


def first(told: Told, count: int) -> Told:
    """What the first answers say, faded as it was when no other had been given (`store.fade`)."""
    part = some(told, answers_of(told) < count)
    return part._replace(weights=part.weights / part.weights.max()) if len(part.weights) else part


def course(prior: PopulationPrior, looks: Looks, told: Told) -> Course:
    """The course from no answer to all of them, at POINTS places at most."""
    total = int(answers_of(told).max()) + 1 if len(told.choices) else 0
    places = min(total + 1, POINTS)
    answers = [round(total * place / max(1, places - 1)) for place in range(places)]
    lean, found = leans(looks, prior.noise), []
    for count in answers:
        u, covariance, _ = fit(prior, first(told, count))
        spread = ((lean @ covariance) * lean).sum(1).clamp_min(0).sqrt()
        found.append(torch.stack([lean @ u, lean @ u - NINETY * spread, lean @ u + NINETY * spread]))
    return Course(answers, *torch.stack(found, 1))


def drifts(prior: PopulationPrior, looks: Looks, told: Told, alarm: float = ALARM) -> list[Drift]:
    """The looks in which newer answers contradict older ones beyond chance, the surest first; fading is left out, for
    it would hide what it answers."""
    plain = told._replace(weights=torch.ones_like(told.weights))
    answers, lean = answers_of(plain), leans(looks, prior.noise)
    scores = parts_of(prior, plain).pulls @ looks.readings.double().T
    if len(scores) < 2 * LEAST:
        return []
    at, p = change_points(scores)
    found = []
    for look in p.argsort(stable=True).tolist():
        if float(p[look]) > alarm:
            break
        since = int(at[look])
        sides = (some(plain, answers < since), some(plain, answers >= since))
        before, now = (float(lean[look] @ fit(prior, side)[0]) for side in sides)
        half_life = max(LEAST_HALF_LIFE, len(scores) - since)  # the older ones count half and less
        found.append(Drift(look, since, float(p[look]), before, now, half_life))
    return found


def change_points(scores: Tensor, shuffles: int = SHUFFLES) -> tuple[Tensor, Tensor]:
    """Of scores [a, k] in their order, for each column the first row after its largest change [k], and the share of
    shuffled orders in which any column changes as much [k]."""
    a, k = scores.shape
    centred = scores.double() - scores.double().mean(0)
    centred = centred / centred.square().mean(0).sqrt().clamp_min(1e-12)
    size, at = _largest(centred[None])
    generator = torch.Generator().manual_seed(SEED)
    others = []
    for start in range(0, shuffles, 100):  # of a thousand answers and many looks all at once would not fit in memory
        orders = torch.rand(min(100, shuffles - start), a, generator=generator).argsort(1)
        others.append(_largest(centred[orders])[0].amax(1))
    above = (torch.cat(others)[:, None] >= size - 1e-9).sum(0)
    return at[0], (1 + above) / (1 + shuffles)


def _largest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The largest standardised change of scores [s, a, k] that are centred, and the first row after it: both [s, k]."""
    a = scores.shape[1]
    row = torch.arange(1, a, dtype=scores.dtype)[:, None]
    change = scores.cumsum(1)[:, :-1].abs() / (row * (a - row) / a).sqrt()
    size, index = change[:, LEAST - 1 : a - LEAST].max(1)
    return size, index + LEAST
