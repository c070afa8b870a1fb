"""`python -m ppd evaluate WORLD`: every figure of the model card, on reporting people and held-out captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..adapters import UserAdapter
from ..encoders.statements import Statement, statements
from ..evaluation import bootstrap, correlation, micro_f1, object_counts, ridge_r2, wins
from ..files import file_digest
from ..precision import has_bfloat16
from . import scenes
from .autoencoder import encode_pictures
from .classifier import objects_found
from .data import PictureSet, picture_set, to_tensor
from .painter import GUIDANCE, generate
from .people import TEMPERATURE, People, sample_weights
from .recipe import Recipe
from .statistics import CLIP, STATISTICS
from .taste import SUPPORT_COUNTS, Support, draw_support, embed_people
from .turbo import STEPS as TURBO_STEPS
from .world import World

PICTURES_PER_PERSON = 4
SWEPT_PICTURES = 1
"""Pictures per person at each point of the sweeps over strength and blend."""

HELD_OUT_PICTURES = 1500
PAIRS = 4
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
TURBO_STRENGTHS = (1.0, 3.0)
"""The widget's default and its most."""
BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)
READER_SAMPLE = 20000
READ_PAIRS = (4, 16, 32)


class Evaluation:
    """Paints the same (caption, seed) under different conditions and lets each picture's owner judge it."""

    def __init__(self, recipe: Recipe, people: int) -> None:
        self.recipe = recipe
        everybody = recipe.people["reporting"]
        self.people = People(everybody.weights[:people], everybody.types[:people])
        self.count = len(self.people.weights)
        rng = np.random.default_rng(71)
        self.support = draw_support(recipe.pool, self.people, max(SUPPORT_COUNTS), rng)
        shape = (self.count, PICTURES_PER_PERSON)
        self.captions = rng.choice(scenes.HELD_OUT_CAPTIONS, shape)
        self.seeds = 3 * 10**6 + np.arange(self.count * PICTURES_PER_PERSON).reshape(shape)
        self.other = (np.arange(self.count) + rng.integers(1, self.count, self.count)) % self.count
        labels = np.stack([scenes.object_labels(caption) for caption in self.captions.flat]) > 0.5
        self.labels = labels.reshape(*shape, len(scenes.KINDS))
        self.progress = tqdm(desc="painting", unit="picture", mininterval=2.0)

    def embeddings(self, pairs: int) -> Tensor:
        """[P, d]."""
        return embed_people(self.recipe.pool, self.support, self.recipe.prior, pairs)

    def paint(
        self,
        adapter: UserAdapter | None = None,
        u: Tensor | None = None,
        strength: float = 1.0,
        pictures: int | None = None,
        *,
        look: str = "",
        turbo: bool = False,
    ) -> Look:
        """One condition: u [P, d], the first `pictures` (by default all) of each person's own under it.

        `look` is put behind each caption; `turbo` paints with the few-step model, in its steps and without guidance.
        """
        pictures = pictures or self.captions.shape[1]
        model = self.recipe.turbo if turbo else self.recipe.model
        host = None if adapter is None else model.host(adapter)
        rows = None if u is None else u.repeat_interleave(pictures, 0)[:, None]
        latents = generate(
            model,
            [f"{caption}{look}" for caption in self.captions[:, :pictures].flat],
            self.seeds[:, :pictures].flatten().tolist(),
            host=host,
            u=rows,
            strength=strength,
            guidance=1.0 if turbo else GUIDANCE,
            steps=TURBO_STEPS if turbo else None,
            on_batch=self.progress.update,
        )
        statistics, found = [], []
        for part in latents.split(100):
            decoded = self.recipe.model.decode(part)
            statistics.append(self.recipe.world.statistics(decoded))
            found.append(objects_found(self.recipe.classifier, decoded).numpy())
        shape = (self.count, pictures)
        scores = self.recipe.whitening.scores(torch.cat(statistics)).unflatten(0, shape)
        counts = object_counts(np.concatenate(found), self.labels[:, :pictures].reshape(-1, len(scenes.KINDS)))
        return Look(self.people, scores, counts.reshape(*shape, 3))


class Look:
    """What came out of one condition: whitened statistics [P, K, M] and object counts [P, K, 3]."""

    def __init__(self, people: People, scores: Tensor, counts: np.ndarray) -> None:
        self.people, self.scores, self.counts = people, scores, counts
        self.rewards = people.rewards(scores.clamp(-CLIP, CLIP)).double().numpy()

    def first(self, pictures: int) -> Look:
        """The first `pictures` of each person."""
        return Look(self.people, self.scores[:, :pictures], self.counts[:, :pictures])

    @property
    def out_of_range(self) -> float:
        """Share of pictures with any statistic beyond the clip."""
        return (self.scores.abs() > CLIP).any(-1).float().mean().item()

    @property
    def invented(self) -> float:
        """Objects per picture that the caption does not name."""
        return float((self.counts[..., 1] - self.counts[..., 0]).mean())


def check_people(people: int) -> None:
    """Refuse too few to compare."""
    if people < 2:
        raise ValueError(f"Expected at least 2 people, since each is compared with another, got {people}.")


def evaluate(recipe: Recipe, people: int = 200, adapter_name: str = "", *, quick: bool = False) -> dict[str, Any]:
    """All figures as plain data; `quick` leaves out the sweeps over pairs, strength, blend and the second seed.

    Without a name the adapter is the world's own.
    """
    check_people(people)
    run = Evaluation(recipe, people)
    limits = ceilings(recipe, run)
    base = run.paint()
    adapter = recipe.adapter(adapter_name or recipe.world.name)
    report = _of_adapter(recipe, run, adapter, base, limits, quick) | _of_parts(recipe, run, base, limits)
    if recipe.world.has_turbo:
        report |= {"words": word_figures(recipe, run), "turbo": turbo_figures(run, adapter, base, report)}
    report["settings"]["adapter_training"] = adapter.config.training
    return report


def compared(world: World, *, quick: bool = False) -> list[str]:
    """Names of the adapters that the world's own is compared with."""
    return [f"{world.name}-population", *([] if quick else [f"{world.name}-seed2"])]


def _of_parts(recipe: Recipe, run: Evaluation, base: Look, limits: dict[str, Any]) -> dict[str, Any]:
    return {
        "objects_f1_base": {**bootstrap(base.counts, micro_f1), "ceiling": None},
        "reader_correlation": {str(n): c for n, c in limits["reader"].items()},
        "pocket": pocket_figures(recipe, base),
        "looks": look_figures(recipe, run),
        "settings": settings(recipe, run),
    }


def _of_adapter(
    recipe: Recipe, run: Evaluation, adapter: UserAdapter, base: Look, limits: dict[str, Any], quick: bool
) -> dict[str, Any]:
    population, *second_seed = compared(recipe.world, quick=quick)
    own_u, zero_u = run.embeddings(PAIRS), run.embeddings(0)
    own = run.paint(adapter, own_u)
    pooled = run.paint(recipe.adapter(population), zero_u)
    other = run.paint(adapter, own_u[run.other])
    zero = run.paint(adapter, zero_u)

    def against(ours: Look, theirs: Look, ceiling: float | None = None) -> dict[str, Any]:
        return {**bootstrap(wins(ours.rewards, theirs.rewards)), "ceiling": ceiling}

    report: dict[str, Any] = {
        "wins_vs_base": against(own, base, limits["base"]),
        "reward_vs_base": bootstrap(own.rewards - base.rewards),
        "wins_vs_population": against(own, pooled, limits["population"]),
        "own_vs_other": against(own, other, limits["other"]),
        "wins_vs_own_population": against(own, zero, limits["population"]),
        "wins_with_no_pairs": against(zero, base),
        "population_adapter_vs_base": against(pooled, base),
        "objects_f1_personal": {**bootstrap(own.counts, micro_f1), "ceiling": None},
        "objects_f1_loss": bootstrap(
            np.stack([base.counts, own.counts], axis=1), lambda x: micro_f1(x[:, 0]) - micro_f1(x[:, 1])
        ),
        "invented_per_picture": {"base": base.invented, "personal": own.invented},
        "out_of_range": {"base": base.out_of_range, "personal": own.out_of_range},
        "steering": steering(run, base, own),
    }
    if not quick:
        looks = {PAIRS: own, **{n: run.paint(adapter, run.embeddings(n)) for n in SUPPORT_COUNTS if n != PAIRS}}
        report["by_pairs"] = {str(n): against(looks[n], base, limits["by_pairs"][n]) for n in SUPPORT_COUNTS}
        few = SWEPT_PICTURES
        swept = {0.0: base.first(few), 1.0: own.first(few)}
        swept |= {s: run.paint(adapter, own_u, s, few) for s in STRENGTHS if s not in swept}
        report["strength"] = [{"strength": s, **_summary(swept[s], swept[0.0])} for s in STRENGTHS]
        blended = {0.0: own.first(few), 1.0: other.first(few)}
        for weight in BLENDS[1:-1]:
            blended[weight] = run.paint(adapter, torch.lerp(own_u, own_u[run.other], weight), pictures=few)
        report["blend"] = [{"weight": w, "reward_a_minus_b": _contrast(run, blended[w])} for w in BLENDS]
        report["mirror"] = mirror(base.first(few), own.first(few), run.paint(adapter, -own_u, pictures=few))
        second = run.paint(recipe.adapter(*second_seed), own_u)
        report["second_seed"] = {"wins_vs_base": against(second, base), "second_vs_first": against(second, own)}
    return report


def _summary(look: Look, base: Look) -> dict[str, Any]:
    return {
        "reward": float(look.rewards.mean()),
        "wins_vs_base": bootstrap(wins(look.rewards, base.rewards)),
        "objects_f1": micro_f1(look.counts),
        "invented_per_picture": look.invented,
        "out_of_range": look.out_of_range,
    }


def _contrast(run: Evaluation, look: Look) -> dict[str, float]:
    """Mean of (owner's reward - the other person's reward) of the same pictures."""
    clipped = look.scores.clamp(-CLIP, CLIP)
    others = People(run.people.weights[run.other], run.people.types[run.other])
    return bootstrap((run.people.rewards(clipped) - others.rewards(clipped)).numpy())


def steering(run: Evaluation, base: Look, own: Look) -> dict[str, float]:
    """Per statistic, the correlation over people of a person's weight with the mean shift of the person's pictures."""
    shift = (own.scores - base.scores).mean(1).double().numpy()
    weights = run.people.weights.double().numpy()
    return {name: correlation(weights[:, i], shift[:, i]) for i, name in enumerate(STATISTICS)}


def mirror(base: Look, own: Look, opposite: Look) -> dict[str, Any]:
    """What -u paints: wins against the base, and per statistic the correlation of its shifts with those of u."""
    ours, theirs = ((look.scores - base.scores).flatten(0, 1) for look in (own, opposite))
    wins_vs_base = bootstrap(wins(opposite.rewards, base.rewards))
    return {"wins_vs_base": wins_vs_base, "shifts": _correlations(STATISTICS, ours, theirs)}


def ceilings(recipe: Recipe, run: Evaluation, sample: int = READER_SAMPLE) -> dict[str, Any]:
    """What a Bayes-optimal reader of the true statistics reaches with a painter who moves exactly where he is told.

    The reader's posterior mean of w is an importance-weighted mean over `sample` people of the known population; the
    painter takes a step of fixed length along it, so that "better" is the sign of w . step.
    """
    prior, _ = sample_weights(recipe.units["covariance"], np.random.default_rng(81), sample)
    truth = run.people.weights
    unit = torch.nn.functional.normalize
    mean_step = unit(prior.mean(0, keepdim=True), dim=1)
    readers, by_pairs = {}, {}
    for n in SUPPORT_COUNTS:
        step = unit(_posterior_mean(recipe, run.support, prior, n), dim=1)
        readers[n] = (step * unit(truth, dim=1)).sum(1).mean().item()
        by_pairs[n] = ((step * truth).sum(1) > 0).float().mean().item()
        if n == PAIRS:
            population = (((step - mean_step) * truth).sum(1) > 0).float().mean().item()
            other = (((step - step[run.other]) * truth).sum(1) > 0).float().mean().item()
    limits = {"base": by_pairs[PAIRS], "population": population, "other": other}
    return {**limits, "reader": readers, "by_pairs": by_pairs}


def _posterior_mean(recipe: Recipe, support: Support, prior: Tensor, pairs: int) -> Tensor:
    s = recipe.pool.statistics
    difference = s[support.chosen[:, :pairs]] - s[support.rejected[:, :pairs]]
    loglikelihood = torch.nn.functional.logsigmoid(difference @ prior.T / TEMPERATURE).sum(1)
    return loglikelihood.softmax(1) @ prior


def pocket_figures(recipe: Recipe, base: Look) -> dict[str, Any]:
    """How good the pocket's parts are, on pictures that were never trained on."""
    fresh = held_out_pictures(recipe)
    real = to_tensor(fresh.pictures)
    latents = encode_pictures(recipe.model.vae, fresh.pictures)
    decoded = recipe.model.decode(latents * recipe.model.latent_scale)
    error = (decoded - real).pow(2).mean((1, 2, 3))
    statistics, shifted = recipe.world.statistics(real), recipe.world.statistics(decoded)
    shift = (shifted - statistics).mean(0) / statistics.std(0)
    labels = np.stack([scenes.object_labels(scenes.SCENES[i].caption) for i in fresh.captions]) > 0.5
    right = (objects_found(recipe.classifier, decoded).numpy() == labels).mean(1)
    terciles = []
    for column in fresh.styles.T:
        cut = np.quantile(column, [1 / 3, 2 / 3])
        terciles += [float(right[np.digitize(column, cut) == part].mean()) for part in range(3)]
    readable = {}
    for name, pictures, target in (("real", real, statistics), ("decoded", decoded, shifted)):
        features = recipe.encoder.image_tensor_features(pictures).double().numpy()
        r2 = ridge_r2(features, target.double().numpy(), test=HELD_OUT_PICTURES // 3)
        readable[name] = dict(zip(STATISTICS, map(float, r2), strict=True))
    right_named = base.counts.reshape(-1, 3).sum(0)
    return {
        "autoencoder_psnr_db": -10 * float(torch.log10(error.mean())),
        "autoencoder_shift_sd": dict(zip(STATISTICS, shift.tolist(), strict=True)),
        "classifier_accuracy": float(right.mean()),
        "classifier_accuracy_worst_tercile": min(terciles),
        "base_named_objects_found": float(right_named[0] / right_named[2]),
        "encoder_r2": readable,
    }


def held_out_pictures(recipe: Recipe) -> PictureSet:
    """Rendered pictures that nothing was trained on."""
    return picture_set(
        recipe.work / "held_out_pictures", HELD_OUT_PICTURES, first_seed=10**6, render=recipe.world.render
    )


def look_figures(recipe: Recipe, run: Evaluation) -> dict[str, Any]:
    """How well looks read pictures and people.

    Per look, correlations of what pictures read with the style that made them and with the statistic of the look's
    name, among all pictures and among those of one caption, as in a pick. By pairs, the correlation over people of the
    stated effect with the true weight of that statistic, and an idealised reader's; which share of statements is sure,
    and how often those have the weight's sign.
    """
    looks, pool, prior = recipe.looks, recipe.pool, recipe.prior
    names, columns = looks.names, [STATISTICS.index(name) for name in looks.names]
    fresh = held_out_pictures(recipe)
    real = to_tensor(fresh.pictures)
    read = looks.amounts(prior.whiten(recipe.encoder.image_tensor_features(real)))
    styles = fresh.styles[:, [scenes.STYLES.index(name) for name in names]]
    statistics = recipe.world.statistics(real)[:, columns]
    read_painted = looks.amounts(prior.whiten(pool.features))
    painted_statistics = recipe.painted["statistics"][:, columns]
    pictures = {
        "style": _correlations(names, read, styles),
        "statistic": _correlations(names, read, statistics),
        "statistic_within_captions": _correlations(
            names, _within(read, fresh.captions), _within(statistics, fresh.captions)
        ),
        "painted_statistic_within_captions": _correlations(
            names, _within(read_painted, pool.captions), _within(painted_statistics, pool.captions)
        ),
    }
    everybody, _ = sample_weights(recipe.units["covariance"], np.random.default_rng(81), READER_SAMPLE)
    truth = run.people.weights[:, columns]
    people = {}
    for n in READ_PAIRS:
        found = _statements_of_people(recipe, run.support, n)
        mean = torch.tensor([[one.mean for one in row] for row in found])
        sure = torch.tensor([[one.state == "sure" for one in row] for row in found])
        right = mean.sign() == truth.sign()
        ideal = _posterior_mean(recipe, run.support, everybody, n)[:, columns]
        people[str(n)] = {
            "correlation": _correlations(names, mean, truth),
            "idealised_reader": _correlations(names, ideal, truth),
            "sure": sure.double().mean().item(),
            "sure_and_right": (sure & right).double().sum().item() / max(1, int(sure.sum())),
        }
    return {"pictures": pictures, "people": people}


def _statements_of_people(recipe: Recipe, support: Support, pairs: int) -> list[list[Statement]]:
    """What everybody's first `pairs` picks say of each look."""
    prior, features = recipe.prior, recipe.pool.features
    x = prior.differences(features[support.chosen[:, :pairs]], features[support.rejected[:, :pairs]]) * prior.noise
    return [statements(recipe.looks, row) for row in x]


def _within(values: Tensor, captions: np.ndarray) -> Tensor:
    """Values [n, k] less their mean over the pictures of the same caption."""
    _, group = np.unique(captions, return_inverse=True)
    member = torch.nn.functional.one_hot(torch.from_numpy(group)).to(values)
    return values - member @ (member.T @ values / member.sum(0)[:, None])


def _correlations(names: Sequence[str], x: Tensor, y: Tensor | np.ndarray) -> dict[str, float]:
    """Column by column."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return {name: correlation(a[:, k], b[:, k]) for k, name in enumerate(names)}


def word_figures(recipe: Recipe, run: Evaluation) -> dict[str, Any]:
    """Per look, how far its high word is from its low one in its own statistic, in standard deviations of what the base
    paints; and in the mean of the others', without sign."""
    words = {}
    for k, (low, high) in enumerate(recipe.world.probed.values()):
        ends = [run.paint(look=f", {word}", pictures=SWEPT_PICTURES).scores for word in (low, high)]
        apart = (ends[1] - ends[0]).mean((0, 1))
        rest = float((apart.abs().sum() - apart[k].abs()) / (len(STATISTICS) - 1))
        words[STATISTICS[k]] = {"words": [low, high], "apart": float(apart[k]), "others": rest}
    return words


def turbo_figures(run: Evaluation, adapter: UserAdapter, base: Look, on_base: dict[str, Any]) -> dict[str, Any]:
    """The turbo beside the base: objects, pictures out of range, the correlation of each statistic with the base's
    picture of the same caption and seed. And the base's adapter, as it is, on the turbo, by strength: without guidance
    a strength pushes less. `kept`: the gain there over the gain in the figures `on_base`, where one of a half in wins
    is none."""
    plain, own_u = run.paint(turbo=True), run.embeddings(PAIRS)
    personal = {}
    for strength in TURBO_STRENGTHS:
        own, other = (run.paint(adapter, u, strength, turbo=True) for u in (own_u, own_u[run.other]))
        won, reward = bootstrap(wins(own.rewards, plain.rewards)), bootstrap(own.rewards - plain.rewards)
        lost = np.stack([plain.counts, own.counts], axis=1)
        personal[f"{strength:g}"] = {
            "wins_vs_turbo": won,
            "own_vs_other": bootstrap(wins(own.rewards, other.rewards)),
            "reward_vs_turbo": reward,
            "objects_f1_loss": bootstrap(lost, lambda x: micro_f1(x[:, 0]) - micro_f1(x[:, 1])),
            "out_of_range": own.out_of_range,
            "kept": {
                "wins": _share(won["mean"] - 0.5, on_base["wins_vs_base"]["mean"] - 0.5),
                "reward": _share(reward["mean"], on_base["reward_vs_base"]["mean"]),
            },
        }
    ours, theirs = (look.scores.flatten(0, 1) for look in (plain, base))
    return {
        "steps": TURBO_STEPS,
        "objects_f1": bootstrap(plain.counts, micro_f1),
        "out_of_range": plain.out_of_range,
        "statistics_with_base": _correlations(STATISTICS, ours, theirs),
        "personal": personal,
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def settings(recipe: Recipe, run: Evaluation) -> dict[str, Any]:
    """What produced the figures."""
    files = sorted(path for path in recipe.weights.rglob("*.safetensors"))
    return {
        "people": run.count,
        "pictures_per_person": PICTURES_PER_PERSON,
        "pictures_per_person_in_sweeps": SWEPT_PICTURES,
        "pairs": PAIRS,
        "guidance": GUIDANCE,
        "sampler": f"{recipe.world.model.sampler}, {recipe.world.model.steps} steps",
        "strength": 1.0,
        "precision": "bfloat16" if has_bfloat16(recipe.model.device) else "float32",
        "captions": len(scenes.HELD_OUT_CAPTIONS),
        "sha256": {str(path.relative_to(recipe.weights)): file_digest(path)[:16] for path in files},
    }
