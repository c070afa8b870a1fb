"""A taste bound to a guide: u moved as little as possible, so that it does not pull against a look that is a rule.

Tilting by u moves whitened features by Cov(phi) u = u, so it moves the amount of a look by r . u, r its reading. A
`never` asks s r . u <= 0, a `must` s r . u >= 0, s the sign of the end that is named: half-spaces a . u <= 0. They say
where u pulls, not how pictures come out: that is the brand check's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """The embedding that obeys the guide, and of each rule that held it back the pull on the look, in steps, before."""

    embedding: UserEmbedding
    held: dict[LookRule, float]


def bound(embedding: UserEmbedding, guide: Guide, looks: Looks, prior: PopulationPrior) -> Bound:
    """The nearest u [1, d] that pulls against none of the guide's `must` and `never` looks.

    Nearest in the prior's Mahalanobis distance (v - u)' S^-1 (v - u), S the covariance over people: what people hardly
    differ in is hardly changed, and what is left is the likeliest person who obeys. Exact (nonnegative least squares in
    the dual), idempotent, and the same u where it obeys already. Draws of the posterior stay on the edge.
    """
    rules = [rule for rule in guide.looks if rule.level != "should"]
    prior.check_embedding(embedding.u)
    if not rules:
        return Bound(embedding, {})
    ends = [look_end(looks, rule.word) for rule in rules]
    signs = [sign if rule.level == "never" else -sign for rule, (_, sign) in zip(rules, ends, strict=True)]
    a = torch.stack([sign * looks.readings[index].double() for sign, (index, _) in zip(signs, ends, strict=True)])
    u, s = embedding.u[0].double(), prior.covariance.double()
    pulls = a @ u
    if bool((pulls <= SLACK * a.norm(dim=1) * u.norm()).all()):
        return Bound(embedding, {})
    gram = a @ s @ a.T
    weights = nonnegative(gram, pulls)
    active = (weights > 0).nonzero().flatten().tolist()
    moved = u - s @ a.T @ weights
    factor = embedding.covariance_factor
    if factor is not None:
        edge = a[active]
        onto = torch.linalg.pinv(gram[active][:, active]) @ edge @ factor.double()
        factor = (factor.double() - s @ edge.T @ onto).float()
    held = {rules[i]: float(abs(pulls[i])) for i in active}
    return Bound(embedding.moved(moved[None].float(), factor), held)


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


def told(found: Bound, rules: Sequence[LookRule]) -> str:
    """For people: what was held back."""
    if not rules:
        return "The guide has no looks that must or never be: the taste goes on as it is."
    if not found.held:
        return "The taste pulls against no rule of the guide: it goes on as it is."
    lines = [f"{rule}: it pulled the other way by {pull:.2f}, and now does not." for rule, pull in found.held.items()]
    return "\n".join(["The taste is bound to the guide.", *lines])
