"""A taste bound to a guide: u moved as little as possible, so that it leans against no look that is a rule.

What u does with a look is told in two ways. Tilting by u moves whitened features by Cov(phi) u = u, so it moves the
amount of the look by r . u, r its reading; and of two pictures that are a step s of the look apart u prefers one by
log-odds of s . u, which is what words and sorting go by. Looks overlap, so the two can differ in sign. A `never` asks
that both be <= 0, a `must` that both be >= 0, for the end that is named: half-spaces a . u <= 0. They say where u
leans, not how pictures come out: that is the brand check's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..encoders.looks import Looks
from ..encoders.population import PopulationPrior
from ..user_embedding import UserEmbedding
from .brand import look_end
from .guide import Guide, LookRule

SLACK = 1e-6
"""How far beyond a half-space counts as on its edge, relative to the lengths of a and u: single precision."""


@dataclass(frozen=True)
class Bound:
    """The embedding that obeys the guide, and the rules that it leaned against before."""

    embedding: UserEmbedding
    held: tuple[LookRule, ...]


def bound(embedding: UserEmbedding, guide: Guide, looks: Looks, prior: PopulationPrior) -> Bound:
    """The nearest u [1, d] that leans against none of the guide's `must` and `never` looks.

    Nearest in the prior's Mahalanobis distance (v - u)' S^-1 (v - u), S the covariance over people: what people hardly
    differ in is hardly changed, and what is left is the likeliest person who obeys. Exact (nonnegative least squares in
    the dual), idempotent, and the same u where it obeys already. What a rule says of a look is no longer open: the
    posterior's draws differ from u along none of the rules' half-spaces, and so obey as u does.
    """
    rules = binding(guide)
    prior.check_embedding(embedding.u)
    if not rules:
        return Bound(embedding, ())
    ends = [look_end(looks, rule.word) for rule in rules]
    signs = [sign if rule.level == "never" else -sign for rule, (_, sign) in zip(rules, ends, strict=True)]
    both = [part for of in (looks.readings, looks.steps) for part in of.double()[[index for index, _ in ends]]]
    a = torch.stack([sign * part for sign, part in zip(2 * signs, both, strict=True)])
    u, s = embedding.u[0].double(), prior.covariance.double()
    pulls = a @ u
    against = pulls > SLACK * a.norm(dim=1) * u.norm()
    gram, factor = a @ s @ a.T, embedding.covariance_factor
    if factor is not None:
        across = torch.linalg.pinv(gram, hermitian=True) @ a @ factor.double()
        factor = (factor.double() - s @ a.T @ across).float()
    if not against.any():
        return Bound(replace(embedding, covariance_factor=factor), ())
    moved = u - s @ a.T @ nonnegative(gram, pulls)
    if moved.norm() <= SLACK * u.norm():  # rounding: nothing of the taste obeys
        moved = torch.zeros_like(u)
    held = tuple(rule for rule, one in zip(rules, against.view(2, -1).any(0), strict=True) if one)
    return Bound(embedding.moved(moved[None].float(), factor), held)


def binding(guide: Guide) -> list[LookRule]:
    """The guide's rules that bind a taste: looks that must or never be."""
    return [rule for rule in guide.looks if rule.level != "should"]


def nonnegative(gram: Tensor, target: Tensor) -> Tensor:
    """The x >= 0 [k] of least x' gram x / 2 - x' target, gram [k, k] positive semidefinite.

    Lawson and Hanson's active-set method (1974, chapter 23) on the normal equations (Bro and de Jong 1997). Where gram
    is singular and target not in its range there is no least: what brings x no further down stays at 0.
    """
    x, passive, stuck = torch.zeros_like(target), *torch.zeros(2, len(target), dtype=torch.bool)
    slack, least = SLACK * float(target.abs().max()), 0.0
    while True:
        gradient = target - gram @ x
        gradient[passive | stuck] = -torch.inf
        if float(gradient.max()) <= slack:
            return x
        added = int(gradient.argmax())
        wider = passive.clone()
        wider[added] = True
        moved = _least(gram, target, x, wider)
        value = float(moved @ gram @ moved / 2 - moved @ target)
        if value < least:
            x, passive, least = moved, moved > 0, value
        else:
            stuck[added] = True


def _least(gram: Tensor, target: Tensor, x: Tensor, passive: Tensor) -> Tensor:
    """The same over some variables [k] (bool), from x on: those that would sink below 0 on the way are left there."""
    passive = passive.clone()
    while True:
        free = torch.zeros_like(x)
        free[passive] = torch.linalg.pinv(gram[passive][:, passive], hermitian=True) @ target[passive]
        sinking = passive & (free <= 0)
        if not sinking.any():
            return free
        share = torch.where(sinking, x / (x - free), torch.inf).nan_to_num(0.0)
        x = torch.where(passive, x + share.min() * (free - x), 0.0).clamp(min=0.0)
        passive[int(share.argmin())] = False


def told(found: Bound, guide: Guide) -> str:
    """For people: what was held back."""
    if not binding(guide):
        return f"The guide {guide.name} has no looks that must or never be: the taste goes on as it is."
    if not found.held:
        return f"The taste leans against no rule of the guide {guide.name}: it goes on as it is."
    lines = [f"{rule}: it leaned the other way, and now does not." for rule in found.held]
    return "\n".join([f"The taste is bound to the guide {guide.name}.", *lines])
