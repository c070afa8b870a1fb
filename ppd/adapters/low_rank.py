"""The low-rank kind of user adapter: what u adds to Linear layers of any denoiser.

    w = C u                                  [K]    what is wanted, along K directions that all models may share
    y = W x + B (w * (A x)) * strength              at each site: A [K, in], B [out, K], B = 0 at birth

It is linear in u: u = 0 is the base, -u the opposite change, a mean of two people is between them. For one person and
one strength it is an ordinary LoRA (arXiv 2106.09685), B diag(w) A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..families import layers_of
from ..limits import line, whole
from ..messages import quoted
from .user_adapter import AdapterConfig, UserAdapter

MOST_SITES = 10_000
DEFAULT_RANK = 16


class Site(NamedTuple):
    """A Linear layer of a denoiser: its name in ComfyUI's class, the number of its block, and its widths."""

    name: str
    block: int
    in_features: int
    out_features: int


@dataclass(frozen=True, kw_only=True)
class LowRankConfig(AdapterConfig):
    """sites: the Linear layers that the adapter adds to, in the family's order; rank: K."""

    kind = "low_rank"
    places = "layers"

    sites: tuple[Site, ...]
    rank: int = DEFAULT_RANK

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("rank", self.rank)
        if not isinstance(self.sites, (list, tuple)) or not 0 < len(self.sites) <= MOST_SITES:
            raise ValueError(f"Expected 1 to {MOST_SITES} sites, got {quoted(self.sites)}.")
        object.__setattr__(self, "sites", tuple(map(_site, self.sites)))

    @property
    def count(self) -> int:
        return len(self.sites)

    def places_of(self, part: str) -> tuple[int, ...]:
        if part == "all":
            return tuple(range(self.count))
        blocks = set(layers_of(self.family, part))
        return tuple(number for number, site in enumerate(self.sites) if site.block in blocks)

    def check_sites(self, sites: Sequence[Site]) -> None:
        """Refuse a denoiser whose Linear layers are not those of the adapter."""
        if tuple(sites) == self.sites:
            return
        for ours, theirs in zip(self.sites, sites, strict=False):
            if ours != theirs:
                difference = f"expected {_told(ours)}, got {_told(theirs)}"
                break
        else:
            difference = f"expected {len(self.sites)} layers, got {len(sites)}"
        raise ValueError(
            f"The user adapter is for another model of the family {quoted(self.family)} ({difference}): load the model "
            "that it was made for, or another adapter."
        )


def _site(said: Any) -> Site:
    if not isinstance(said, (list, tuple)) or len(said) != 4:
        raise ValueError(f"Expected a name and three numbers as a site, got {quoted(said)}.")
    name, block, *widths = said
    inner, outer = (whole("a site's width", width) for width in widths)
    return Site(line("a site's name", name), whole("a site's block", block, 0, MOST_SITES), inner, outer)


def _told(site: Site) -> str:
    return f"{site.name} from {site.in_features} to {site.out_features}"


class LowRankSite(nn.Module):
    """A and B of one site."""

    def __init__(self, site: Site, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, site.in_features))
        self.up = nn.Parameter(torch.empty(site.out_features, rank))


class LowRankAdapter(UserAdapter):
    """`directions` is C [K, d], `sites` have A and B."""

    config_class = LowRankConfig
    config: LowRankConfig

    def __init__(self, config: LowRankConfig) -> None:
        super().__init__()
        self.config = config
        self.directions = nn.Parameter(torch.empty(config.rank, config.embedding_dim))
        self.sites = nn.ModuleList(LowRankSite(site, config.rank) for site in config.sites)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start training at the base: B is zero, A keeps the size of its input, C that of a u of length 1."""
        nn.init.normal_(self.directions)
        for site in self.parts():
            nn.init.normal_(site.down, std=site.down.shape[1] ** -0.5)
            nn.init.zeros_(site.up)

    def first_layer(self) -> nn.Parameter:
        return self.directions

    def last_layers(self) -> list[Tensor]:
        return [site.up for site in self.parts()]

    def parts(self) -> list[LowRankSite]:
        """A and B of every site."""
        return cast(list[LowRankSite], list(self.sites))

    def weights(self, u: Tensor) -> Tensor:
        """w of user embeddings u [B, N, d], the sum over N: [B, K]."""
        self.check_user(u)
        return u.sum(1) @ self.directions.to(u).T

    def lora(self, u: Tensor, strength: float, places: Sequence[int]) -> dict[str, tuple[Tensor, Tensor]]:
        """For one person u [1, N, d], at `places`: name of the layer to (A [K, in], B diag(w) * strength [out, K])."""
        w = self.weights(u)[0] * strength
        parts = self.parts()
        chosen = [(self.config.sites[place].name, parts[place]) for place in places]
        return {name: (part.down, (part.up.to(w) * w).to(part.up)) for name, part in chosen}
