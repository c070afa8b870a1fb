"""What a trained adapter is worth on people and prompts that training never saw, without painting.

Implicit accuracy: how often the personal denoiser, against the base, lowers the error on the picture that the person
prefers more than on the other one. Under one's own u it should be high, under another person's low: their difference is
what is personal, and its p is that of a permutation test that exchanges the two for whole people.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..adapters import UserAdapter
from ..evaluation import bootstrap, permutation_p
from ..hosts.denoiser import Denoiser
from ..precision import autocast
from .dpo import PairErrors, diffusion_dpo_loss, rightness
from .objective import UserDPO
from .picks import QueryPicks
from .settings import Objective

PICKS = 6
"""Picks of each person."""
PARTS = 4
"""Of the noise schedule, from most to least noise, by which errors are told."""


def measure(
    denoiser: Denoiser,
    adapter: UserAdapter,
    picks: QueryPicks,
    *,
    people: int,
    batch: int,
    on_batch: Callable[[int, int], None] = lambda done, of: None,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of an adapter on the first `people` of held-out picks, with intervals over people; `batch` pairs fit into
    memory, and `on_batch(picks done, of)` is called before so many."""
    count = min(people, picks.people)
    dpo = UserDPO(
        denoiser, denoiser.host(adapter), picks, denoiser.text(picks.prompts), Objective(), adapter.config.end_percent
    )
    rng = np.random.default_rng(seed)
    index = np.concatenate([rng.choice(np.flatnonzero(picks.person == one), PICKS) for one in range(count)])
    other = (picks.person[index] + rng.integers(1, picks.people, len(index))) % picks.people
    torch.manual_seed(seed)
    noise_rng = np.random.default_rng(seed + 1)
    rows = []
    for start in range(0, len(index), batch):
        on_batch(start, len(index))
        rows.append(_errors(dpo, index[start : start + batch], other[start : start + batch], noise_rng))
    logits = torch.cat([logits for logits, _ in rows], 1)
    # Where u is 0, as the population's is in an encoder that met nobody, so is the logit
    right = rightness(logits).double().unflatten(1, (count, PICKS)).mean(2).numpy()
    own, theirs, population = right
    changes = torch.cat([changes for _, changes in rows], 1)
    order = changes[2].argsort(descending=True).chunk(PARTS)
    return {
        "people": count,
        "picks_of_each": PICKS,
        "own": bootstrap(own),
        "anothers": bootstrap(theirs),
        "population": bootstrap(population),
        "own_minus_anothers": bootstrap(own - theirs),
        "permutation_p": permutation_p((own - theirs)[:, None]),
        "chosen_error_change_by_noise": [changes[0, part].mean().item() for part in order],
        "rejected_error_change_by_noise": [changes[1, part].mean().item() for part in order],
        "null_user_difference": null_user_difference(dpo),
    }


@torch.no_grad()
def null_user_difference(dpo: UserDPO) -> float:
    """Largest change of a prediction by the null user, which must be 0 exactly."""
    null = torch.zeros(2, dpo.picks.embeddings.shape[-1])
    noised = dpo.noised(np.random.default_rng(0), np.arange(2))
    pairs = zip(dpo.reference(noised).differences, dpo.policy(noised, null).differences, strict=True)
    return max((one - other).abs().max().item() for one, other in pairs)


@torch.no_grad()
def _errors(dpo: UserDPO, index: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Logits [3, b] under one's own, another's and the population's u, and [3, b] by how much one's own u changes the
    errors of chosen and rejected pictures, as a share of the reference's, and t."""
    picks = dpo.picks
    users = [picks.embeddings[-1, one] for one in (picks.person[index], other)]
    users.append(picks.population.expand(len(index), -1))
    with autocast(dpo.denoiser.device):
        noised = dpo.noised(rng, index)
        reference, policies = dpo.reference(noised), [dpo.policy(noised, u) for u in users]
    logits = [diffusion_dpo_loss(*policy.means, *reference.means, 1.0)[1].cpu() for policy in policies]
    changes = [_change(policies[0], reference, which).cpu() for which in range(2)]
    return torch.stack(logits), torch.stack([*changes, noised.t[: len(index)].float().cpu()])


def _change(policy: PairErrors, reference: PairErrors, which: int) -> Tensor:
    return policy.means[which] / reference.means[which] - 1
