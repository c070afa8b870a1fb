"""The same person with one look turned from less to more: u moved so that their lean to this look changes, and to no
other.

Of all the ways that change one lean by so much and no other, the one is taken that is most likely among people: least
in the metric of the population's covariance C, delta = C L' (L C L')^-1 e_look (the regression of tastes on leans).
So it stays where the adapter was trained: what people who differ in this look alone have in common goes along, as far
as no look tells it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..encoders.looks import Looks
from ..encoders.population import PopulationPrior
from ..messages import quoted
from ..user_embedding import UserEmbedding
from .influence import leans


def directions(prior: PopulationPrior, looks: Looks) -> Tensor:
    """By what u moves where the lean to one look grows by a standard deviation over people: [k, d].

    Where there are more looks than the features can tell apart, those alike move along, as little as can be.
    """
    lean, covariance = leans(looks, prior.noise), prior.covariance.double()
    among = lean @ covariance @ lean.T
    return among.diagonal().sqrt()[:, None] * (torch.linalg.pinv(among, hermitian=True) @ lean @ covariance)


def turned(
    embedding: UserEmbedding, prior: PopulationPrior, looks: Looks, look: str, amounts: Sequence[float]
) -> list[UserEmbedding]:
    """The person once for each of the amounts, in standard deviations over people: below 0 less of the look's high
    side, above 0 more, 0 the person as they are. How sure u was is not said of who they are not."""
    if look not in looks.names:
        raise ValueError(f"The taste encoder has no look {quoted(look)}: choose one of {', '.join(looks.names)}.")
    if embedding.dim != looks.dim:
        raise ValueError(
            f"Expected a user embedding of {looks.dim} dimensions, as its looks have, got {embedding.dim}."
        )
    step = directions(prior, looks)[looks.names.index(look)]
    return [
        embedding.moved((embedding.u.cpu().double() + amount * step).float()) if amount else embedding
        for amount in amounts
    ]


def strip(reach: float, pictures: int) -> list[float]:
    """Amounts from less to more, evenly from -reach to reach; of an odd number the middle one is 0."""
    if pictures < 2:
        raise ValueError(f"Expected at least 2 pictures in a strip, from less to more, got {pictures}.")
    return [reach * (2 * number - pictures + 1) / (pictures - 1) for number in range(pictures)]
