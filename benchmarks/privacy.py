"""`python -m benchmarks.privacy`: what a user embedding gives away, and what hiding it costs, in the world pocket flow.

Simulated people of hidden statistics pick among 10,000 pictures rendered in random styles, SUPPORT picks each, and are
read by the shipped taste encoder as the nodes do. What is shared is what `release` makes, with a delta of 1e-5.

`bound`: by how much leaving one pick out moves anybody's mode, over all 1,400 people, against the proven most.
`accuracy`: the share of FRESH pairs, never shown, of which u prefers what the person does, by picks and epsilon; the
population's mean is what no picks give. `painted`: win rates of what the turbo paints for u, two pictures a person,
against the base's, against the population user's (.5 is worth nothing) and against another person's u.

`membership`: is a pair among the picks that u was made of? Its own person answered both. Scored by the pair's
likelihood under u, and by the length of its gradient; and by the strongest attacker there is, who knows all other
picks and the encoder, and asks which of two modes the noise is around. AUC .5 is a guess. `retrieval`: the rank that u
gives a picture liked in a pick among all 10,000, as a share (.5 is a guess), beside liked pictures of fresh pairs,
which u has never seen: a difference would be a memory of pictures. `adapter`: is somebody among the training people of
the shipped user adapter? Scored by how much lower its denoising errors are on what they prefer, six fresh picks each.

Means with 95 % bootstrap intervals over people. Pictures are kept in the work folder.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ppd.encoders.encoder import PosteriorEncoder
from ppd.encoders.features import PictureFeatures
from ppd.encoders.posterior import fit_posteriors, root_of
from ppd.evaluation import Array, bootstrap, wins
from ppd.pocket import scenes
from ppd.pocket.autoencoder import encode_pictures
from ppd.pocket.data import to_tensor
from ppd.pocket.evaluate import Evaluation
from ppd.pocket.people import People, pick
from ppd.pocket.recipe import Recipe
from ppd.pocket.statistics import reward_statistics
from ppd.pocket.studio import WEIGHTS
from ppd.pocket.taste import Pool, Support, draw_support
from ppd.pocket.world import POCKET_FLOW
from ppd.privacy import CLIP, COUNT, ClippedTaste, Guarantee, clipped, noise_multiplier, noised
from ppd.training.dpo import diffusion_dpo_loss
from ppd.training.objective import UserDPO
from ppd.training.picks import QueryPicks
from ppd.training.settings import Objective

PICTURES, WITH_LATENTS, SUPPORT, FRESH = 10_000, 1500, 64, 200
COUNTS = (4, 16, 64)
EPSILONS = (1.0, 2.0, 4.0, 8.0, 16.0)
PAINTED = {16: (4.0, 8.0), 64: (1.0, 2.0, 4.0, 8.0)}
"""By picks, the epsilons that are painted for."""
PICTURES_OF_EACH = 2
ATTACKED = 16
"""Picks behind the embeddings that are attacked."""
ADAPTER_PEOPLE, ADAPTER_PICKS, DRAWS = 60, 6, 4
EXACT = "exact"


@dataclass
class Rendered:
    """Pictures to pick from, and the base's latents of the first of them."""

    pool: Pool
    latents: Tensor

    @classmethod
    def of(cls, recipe: Recipe, count: int = PICTURES) -> Rendered:
        """As many pictures of each training caption but for one, in random styles; made once."""
        path = recipe.work / f"rendered-{count}.safetensors"
        if not path.exists():
            save_file(_render(recipe, count), path)
        found = load_file(path)
        captions = np.arange(count) % len(scenes.TRAINING_CAPTIONS)
        statistics = reward_statistics(recipe.whitening, found["statistics"])
        return cls(Pool(captions, statistics, found["features"]), found["latents"])


def _render(recipe: Recipe, count: int) -> dict[str, Tensor]:
    rng, captions = np.random.default_rng(301), scenes.TRAINING_CAPTIONS
    parts: dict[str, list[Tensor]] = {"statistics": [], "features": [], "latents": []}
    for start in tqdm(range(0, count, 100), desc="rendering", mininterval=2.0):
        some = range(start, min(start + 100, count))
        pictures = np.stack(
            [recipe.world.render(captions[i % len(captions)], scenes.random_style(rng), i) for i in some]
        )
        if start < WITH_LATENTS:
            parts["latents"].append(encode_pictures(recipe.model.vae, pictures) * recipe.model.latent_scale)
        x = to_tensor(pictures)
        parts["statistics"].append(recipe.world.statistics(x))
        parts["features"].append(recipe.encoder.image_tensor_features(x))
    return {name: torch.cat(tensors).contiguous() for name, tensors in parts.items()}


class Crowd:
    """People and what they picked: support pairs that u is made of, and as many FRESH pairs that nobody showed it."""

    def __init__(self, recipe: Recipe, pool: Pool, people: People, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.people, self.pool, self.prior = people, pool, recipe.prior
        self.encoder = PosteriorEncoder(PictureFeatures(recipe.encoder), recipe.prior)
        self.support = draw_support(pool, people, SUPPORT, rng)
        self.fresh = _fresh(pool, people, self.support, rng)
        self.phi = recipe.prior.whiten(pool.features).double()

    def __len__(self) -> int:
        return len(self.people.weights)

    def differences(self, picks: Support, count: int | None = None) -> Tensor:
        """[P, n, d]."""
        return self.phi[picks.chosen[:, :count]] - self.phi[picks.rejected[:, :count]]

    def read(self, count: int) -> tuple[Tensor, list[ClippedTaste]]:
        """Everybody's exact u [P, d] from so many picks, and what noise is put on."""
        found = [self.encoder.encode_differences(row.float()) for row in self.differences(self.support, count)]
        return torch.cat([one.u for one in found]), [one.clipped for one in found if one.clipped is not None]

    def shared(self, count: int) -> dict[str, Tensor]:
        """Everybody's u [P, d] by what was shared: exact, or the epsilon."""
        exact, clipped = self.read(count)
        noise = random.Random(count)
        return {EXACT: exact} | {
            f"{epsilon:g}": torch.stack([noised(one, Guarantee(epsilon), noise)[0] for one in clipped]).float()
            for epsilon in EPSILONS
        }

    def accuracy(self, u: Tensor) -> Array:
        """[P]: the share of fresh pairs of which u prefers what the person would without any noise."""
        rewards = self.people.rewards(self.pool.statistics[self.fresh.chosen])
        truth = rewards > self.people.rewards(self.pool.statistics[self.fresh.rejected])
        said = torch.einsum("pnd,pd->pn", self.differences(self.fresh), u.double()) > 0
        return (said == truth).double().mean(1).numpy()


def _fresh(pool: Pool, people: People, support: Support, rng: np.random.Generator) -> Support:
    """FRESH answered pairs of each person of pictures that they were not shown."""
    chosen = np.empty((len(people.weights), FRESH), np.int64)
    rejected = np.empty_like(chosen)
    for person, shown in enumerate(np.concatenate([support.chosen, support.rejected], 1)):
        left = np.setdiff1d(np.arange(len(pool.captions)), shown)
        a = rng.choice(left, 3 * FRESH, replace=False)
        per = len(scenes.TRAINING_CAPTIONS)  # pictures of one caption are so many apart
        b = (a + per * rng.integers(1, len(pool.captions) // per, len(a))) % (len(pool.captions) // per * per)
        kept = (~np.isin(b, shown)) & (a < len(pool.captions) // per * per) & (a != b)
        chosen[person], rejected[person] = a[kept][:FRESH], b[kept][:FRESH]
    first = pick(people.rewards(pool.statistics[chosen]), people.rewards(pool.statistics[rejected]), rng).numpy()
    return Support(np.where(first, chosen, rejected), np.where(first, rejected, chosen))


def bound(recipe: Recipe, pool: Pool) -> dict[str, Any]:
    """How far leaving any one of ATTACKED picks out moves anybody, clipped as what is shared is, and as u is read."""
    prior, phi = recipe.prior, recipe.prior.whiten(pool.features).double()
    mean, covariance, root = prior.mean.double(), prior.covariance.double(), root_of(prior.covariance)
    back = torch.linalg.pinv(root).T
    moved: dict[str, list[Tensor]] = {"clipped": [], "as read": []}
    for seed, people in enumerate(recipe.people.values()):
        support = draw_support(pool, people, ATTACKED, np.random.default_rng(seed))
        x = phi[support.chosen] - phi[support.rejected]
        ones = torch.ones(x.shape[:2], dtype=torch.float64)
        for name, rows in (("clipped", clipped(x, root)), ("as read", x)):
            whole = fit_posteriors(rows, ones, ones, mean, covariance)[0]
            for one in range(ATTACKED):
                kept = ones.clone()
                kept[:, one] = 0
                other = fit_posteriors(rows, ones, kept, mean, covariance)[0]
                moved[name].append(((whole - other) @ back).norm(dim=1))
    found = {name: torch.cat(parts) for name, parts in moved.items()}
    return {
        "people": len(found["clipped"]) // ATTACKED,
        "picks": ATTACKED,
        "proven_most": CLIP,
        "violations": int((found["clipped"] > CLIP).sum()),
        **{name: {"most": float(one.max()), "median": float(one.median())} for name, one in found.items()},
    }


def accuracy(crowd: Crowd) -> dict[str, Any]:
    """By picks, and by what was shared."""
    report: dict[str, Any] = {"population": bootstrap(crowd.accuracy(crowd.prior.mean.expand(len(crowd), -1)))}
    for count in COUNTS:
        report[str(count)] = {name: bootstrap(crowd.accuracy(u)) for name, u in crowd.shared(count).items()}
    return report


def painted(recipe: Recipe, crowd: Crowd) -> dict[str, Any]:
    """Win rates of what the turbo paints."""
    run = _Turbo(recipe, crowd)
    base, population = run.paint_for(None), run.paint_for(crowd.prior.mean.expand(len(crowd), -1))
    report: dict[str, Any] = {"population": {"base": bootstrap(wins(population, base))}}
    for count, epsilons in PAINTED.items():
        shared = crowd.shared(count)
        for name in (EXACT, *(f"{epsilon:g}" for epsilon in epsilons)):
            own, others = run.paint_for(shared[name]), run.paint_for(shared[name].roll(1, 0))
            against = {"base": base, "population": population, "another": others}
            report.setdefault(str(count), {})[name] = {
                what: bootstrap(wins(own, theirs)) for what, theirs in against.items()
            }
    return report


class _Turbo(Evaluation):
    """Paints as `python -m ppd evaluate` does, for this crowd, by the few-step model."""

    def __init__(self, recipe: Recipe, crowd: Crowd) -> None:
        rng = np.random.default_rng(321)
        self.recipe, self.people, self.count = recipe, crowd.people, len(crowd)
        shape = (self.count, PICTURES_OF_EACH)
        self.captions = rng.choice(scenes.HELD_OUT_CAPTIONS, shape)
        self.seeds = 5 * 10**6 + np.arange(self.count * PICTURES_OF_EACH).reshape(shape)
        labels = np.stack([scenes.object_labels(caption) for caption in self.captions.flat]) > 0.5
        self.labels = labels.reshape(*shape, len(scenes.KINDS))
        self.progress = tqdm(desc="painting", unit="picture", mininterval=2.0)

    @cached_property
    def adapter(self) -> Any:
        return self.recipe.adapter(self.recipe.world.name)

    def paint_for(self, u: Tensor | None) -> Array:
        """The owners' rewards [P, K]."""
        return self.paint(None if u is None else self.adapter, u, turbo=True).rewards


def auc(members: Array, others: Array) -> float:
    """The chance that a member's score is the larger one, ties by halves (Mann and Whitney 1947)."""
    return float(wins(members[:, None], others[None]).mean())


def membership(crowd: Crowd) -> dict[str, Any]:
    """AUC of telling ATTACKED support picks from fresh ones of the same person, by what was shared."""
    inside, outside = crowd.differences(crowd.support, ATTACKED), crowd.differences(crowd.fresh)
    root = root_of(crowd.prior.covariance)
    scores: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "likelihood": lambda x, u: x @ u,
        "gradient": lambda x, u: -torch.sigmoid(-x @ u) * (x @ root).norm(dim=-1),
    }
    report: dict[str, Any] = {}
    for name, shared in crowd.shared(ATTACKED).items():
        for score, of in scores.items():
            rows = [
                auc(of(x, u).numpy(), of(y, u).numpy())
                for x, y, u in zip(inside, outside, shared.double(), strict=True)
            ]
            report.setdefault(name, {})[score] = bootstrap(np.array(rows))
        report[name]["knows_all_other_picks"] = 1.0 if name == EXACT else _strongest(crowd, float(name))
    return report


def _strongest(crowd: Crowd, epsilon: float) -> dict[str, float]:
    """AUC of the likelihood ratio of the two modes, with and without a pick: Phi(distance / (sigma sqrt 2))."""
    prior, root = crowd.prior, root_of(crowd.prior.covariance)
    x = clipped(crowd.differences(crowd.support, ATTACKED), root)
    ones = torch.ones(x.shape[:2], dtype=torch.float64)
    mean, covariance, back = prior.mean.double(), prior.covariance.double(), torch.linalg.pinv(root).T
    kept = ones.clone()
    kept[:, 0] = 0
    with_it, without = (fit_posteriors(x, ones, w, mean, covariance)[0] for w in (ones, kept))
    sigma = noise_multiplier(Guarantee(epsilon)) * CLIP * math.hypot(1, COUNT)
    apart = (((with_it - without) @ back).square().sum(1) + (COUNT * CLIP) ** 2).sqrt()  # and the number of picks
    return bootstrap(torch.special.ndtr(apart / sigma / math.sqrt(2)).numpy())


def retrieval(crowd: Crowd) -> dict[str, Any]:
    """Ranks of liked pictures among all, by what was shared; shares of 1, so that a guess has .5."""
    report: dict[str, Any] = {}
    for name, shared in crowd.shared(ATTACKED).items():
        ranks = (shared.double() @ crowd.phi.T).argsort(1, descending=True).argsort(1).numpy()
        rows = np.arange(len(crowd))[:, None]
        shown, fresh = ranks[rows, crowd.support.chosen[:, :ATTACKED]], ranks[rows, crowd.fresh.chosen]
        report[name] = {
            "shown": bootstrap(np.median(shown, 1) / len(crowd.phi)),
            "never_shown": bootstrap(np.median(fresh, 1) / len(crowd.phi)),
            "shown_before_never_shown": bootstrap(
                np.array([auc(-a.astype(float), -b.astype(float)) for a, b in zip(shown, fresh, strict=True)])
            ),
            "shown_in_first_ten": bootstrap((shown < 10).mean(1)),
        }
    return report | {"guess_in_first_ten": 10 / len(crowd.phi)}


@torch.no_grad()
def adapter(recipe: Recipe, rendered: Rendered) -> dict[str, Any]:
    """AUC of telling training people from reporting ones by the shipped adapter's DPO logits on their fresh picks."""
    count = len(rendered.latents)
    pool = Pool(rendered.pool.captions[:count], rendered.pool.statistics[:count], rendered.pool.features[:count])
    names = [scene.caption for scene in scenes.SCENES]
    numbers = np.array([names.index(caption) for caption in scenes.TRAINING_CAPTIONS])
    scores = {}
    for split in ("training", "reporting"):
        everybody = recipe.people[split]
        people = People(everybody.weights[:ADAPTER_PEOPLE], everybody.types[:ADAPTER_PEOPLE])
        crowd = Crowd(recipe, rendered.pool, people, 331)
        queries = draw_support(pool, people, ADAPTER_PICKS, np.random.default_rng(332))
        picks = QueryPicks(
            rendered.latents,
            person=np.repeat(np.arange(ADAPTER_PEOPLE), ADAPTER_PICKS),
            chosen=queries.chosen.flatten(),
            rejected=queries.rejected.flatten(),
            caption=numbers[pool.captions[queries.chosen.flatten()]],
            embeddings=crowd.read(ATTACKED)[0][None],
            population=recipe.prior.mean,
            prompts=tuple(names),
        )
        scores[split] = _margins(recipe, picks)
    rng, (inside, outside) = np.random.default_rng(333), scores.values()
    drawn = [auc(rng.choice(inside, len(inside)), rng.choice(outside, len(outside))) for _ in range(2000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"auc": {"mean": auc(inside, outside), "low": float(low), "high": float(high), "n": 2 * ADAPTER_PEOPLE}}


def _margins(recipe: Recipe, picks: QueryPicks) -> Array:
    """Each person's mean DPO logit under their own u, over DRAWS of noise and t."""
    found = recipe.adapter(recipe.world.name)
    host, texts = recipe.model.host(found), recipe.model.text(picks.prompts)
    dpo = UserDPO(recipe.model, host, picks, texts, Objective(), found.config.end_percent)
    torch.manual_seed(334)
    rng, logits = np.random.default_rng(335), []
    for _ in range(DRAWS):
        for index in tqdm(np.array_split(np.arange(len(picks)), 6), desc="adapter", mininterval=2.0):
            noised = dpo.noised(rng, index)
            reference, own = dpo.reference(noised), dpo.policy(noised, picks.embeddings[0, picks.person[index]])
            logits.append(diffusion_dpo_loss(*own.means, *reference.means, 1.0)[1])
    return torch.cat(logits).view(DRAWS, picks.people, -1).mean((0, 2)).double().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.privacy")
    parser.add_argument("--people", type=int, default=100, help="reporting people (default: 100)")
    parser.add_argument("--work", type=Path, default=Path(".work-privacy"), help="folder for the rendered pictures")
    parser.add_argument("--parts", nargs="+", help="only these of bound, accuracy, painted, membership, ...")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recipe = Recipe(arguments.work, WEIGHTS, POCKET_FLOW)
    rendered, everybody = Rendered.of(recipe), recipe.people["reporting"]
    people = People(everybody.weights[: arguments.people], everybody.types[: arguments.people])
    crowd = Crowd(recipe, rendered.pool, people, 341)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "bound": lambda: bound(recipe, rendered.pool),
        "accuracy": lambda: accuracy(crowd),
        "membership": lambda: membership(crowd),
        "retrieval": lambda: retrieval(crowd),
        "adapter": lambda: adapter(recipe, rendered),
        "painted": lambda: painted(recipe, crowd),
    }
    figures = {name: part() for name, part in parts.items() if name in (arguments.parts or parts)}
    print(json.dumps(figures, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
