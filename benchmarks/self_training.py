"""`python -m benchmarks.self_training`: what an adapter learns from nothing but the checkpoint and its encoder.

Simulated people pick among the checkpoint's own pictures. Who judges are the world's reporting people of hidden
statistics, whom training never saw: wins against the base after four picks, of one's own u against another's, objects
lost. The taste encoder knows no people but simulated ones, who like its looks, or it is the world's shipped one, whose
prior comes of many people's picks (`--encoder shipped`); simulated people then share what these do, or nothing all the
same (`--nothing-shared`). Rows: plain user-DPO, each of its switches, all of them, self-distillation (where the
checkpoint obeys words for looks), and both.

Strength 1 is set as in a training of one's own (ppd/training/strength.py), on other simulated people, by what the
encoder reads in their pictures; or (`--least`) it is the smallest that wins there as often as any, which may be too
little to be seen.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ppd.adapters import UserAdapter
from ppd.encoders.looks import Looks
from ppd.encoders.making import choose_dims, prior_of_looks
from ppd.encoders.population import PopulationPrior, fit_whitening
from ppd.encoders.simulated import SIMULATED, SimulatedPeople, people_of, simulate
from ppd.evaluation import bootstrap, micro_f1, wins
from ppd.pocket import scenes
from ppd.pocket.evaluate import Evaluation, Look
from ppd.pocket.look_words import LOOK_WORDS
from ppd.pocket.painter import LATENT_SHAPE, generate
from ppd.pocket.recipe import GAINS as LEAST_GAINS
from ppd.pocket.recipe import Recipe, smallest_as_good
from ppd.pocket.taste import embed_people
from ppd.pocket.world import WORLDS
from ppd.questions import next_question
from ppd.studies import noise_of
from ppd.training.adapter import distil, train_adapter
from ppd.training.picks import QueryPicks
from ppd.training.settings import Objective
from ppd.training.simulated_picks import simulated_picks
from ppd.training.strength import FOUR, GAINS, share_picked, strength_of

from .interview import draw_questions, interview
from .pocket_step import ROOT

STUDIES = 60
"""Pairs of pictures of each look."""
TUNING = 60
PLAIN = Objective(soft_labels=False, contrast=0.0)
ALL = Objective(steered_beta=True, true_noise=True, safeguard=0.6)
"""But for the contrast, which picks with soft labels have none of."""


@dataclass(frozen=True)
class Checkpoint:
    """A world's base with what can be known of it without anybody's picks."""

    recipe: Recipe
    prior: PopulationPrior
    people: SimulatedPeople
    picks: QueryPicks
    looks: Looks
    shared: bool

    @classmethod
    def of(cls, recipe: Recipe, shipped: bool = False, shared: bool = True) -> Checkpoint:
        """The base's own pictures, painted without looks and, where it obeys words, with them, read by a taste encoder
        that is made of them, or by the `shipped` one."""
        prompts = [scene.caption for scene in scenes.SCENES]
        painted = recipe.painted
        features, latents, caption = painted["features"], painted["latents"], painted["captions"].numpy()
        noise = torch.stack([noise_of(10**6 + i, LATENT_SHAPE) for i in range(len(latents))])
        obeys = recipe.world.has_turbo
        if obeys:
            studies = painted_studies(recipe)
            features, latents = (
                torch.cat([one, studies[n]]) for one, n in ((features, "features"), (latents, "latents"))
            )
            caption = np.concatenate([caption, studies["captions"].numpy()])
            noise = torch.cat([noise, studies["noise"]])
        if shipped:
            prior, looks = recipe.prior, recipe.looks
        else:
            prior, looks = cls._encoder(recipe, features, studies if obeys else None)
        people = simulated(shared, prior, looks, seed=1)
        picks = simulated_picks(people, features, latents, noise, caption, prompts, prior)
        return cls(recipe, prior, people, picks, looks, shared)

    @staticmethod
    def _encoder(recipe: Recipe, features: Tensor, studies: dict[str, Tensor] | None) -> tuple[PopulationPrior, Looks]:
        """Whitening and looks of the base's own pictures, and the prior of people who like these."""
        center, basis = fit_whitening(features, choose_dims(features))
        if studies is not None:
            low, high = studies["features"].unflatten(0, (-1, 2)).unbind(1)
            named = [(name, *recipe.world.probed[name]) for name in LOOK_WORDS]
            look = np.repeat(np.arange(len(named)), STUDIES)
            looks, _ = Looks.from_differences(
                (high - low) @ basis, look.tolist(), named, prompt=studies["captions"][::2].tolist()
            )
        else:
            # rendered ones, since this base knows no words
            looks = read_by(recipe.looks, recipe.prior.whiten(features), (features - center) @ basis)
        identity: dict[str, Any] = {"encoder": recipe.encoder.name, "encoder_hash": recipe.encoder.weight_hash}
        return prior_of_looks(center, basis, looks.readings, **identity), looks

    def new_adapter(self) -> UserAdapter:
        world = self.recipe.world
        config = {
            "encoder": self.prior.encoder,
            "encoder_hash": self.prior.encoder_hash,
            "embedding_dim": self.prior.dim,
            "end_percent": world.end_percent,
        }
        return world.new_adapter(self.recipe.model, **config)

    def liked_by_gain(self, adapter: UserAdapter, gains: Sequence[float]) -> dict[float, Tensor]:
        """By how many logits TUNING simulated people prefer it to the base at each gain, as their encoder reads the
        pictures."""
        people = simulated(self.shared, self.prior, self.looks, TUNING, seed=2)
        features = self.recipe.painted["features"]
        latents, captions = self.recipe.painted["latents"], self.recipe.painted["captions"].numpy()
        told = simulated_picks(people, features, latents, None, captions, self.picks.prompts, self.prior, seed=3)
        u = told.embeddings[FOUR][:, None]
        prompts = [self.picks.prompts[c] for c in told.caption.reshape(TUNING, -1)[:, 0]]
        seeds = range(2 * 10**6, 2 * 10**6 + TUNING)
        base = self._rewards(people, generate(self.recipe.model, prompts, seeds))
        host = self.recipe.model.host(adapter)
        return {
            gain: self._rewards(people, generate(self.recipe.model, prompts, seeds, host=host, u=u, strength=gain))
            - base
            for gain in gains
        }

    def _rewards(self, people: SimulatedPeople, latents: Tensor) -> Tensor:
        pictures = [
            self.recipe.encoder.image_tensor_features(self.recipe.model.decode(part)) for part in latents.split(100)
        ]
        return (self.prior.whiten(torch.cat(pictures)).double() * people.tastes).sum(1)


def simulated(
    shared: bool, prior: PopulationPrior, looks: Looks, count: int = SIMULATED, seed: int = 0
) -> SimulatedPeople:
    """People as training has them, or people who share nothing, whatever the prior knows."""
    if shared:
        return people_of(prior, looks.readings, count, seed)
    return simulate(prior.basis, looks.readings, count, seed)


def read_by(looks: Looks, known: Tensor, own: Tensor) -> Looks:
    """Looks that are read in features `known` [n, d] of pictures, read in their others `own` [n, e], white ones."""
    across = own.T @ known / (len(own) - 1)  # least squares of the known ones on the white ones
    back = torch.linalg.solve(known.T @ known / (len(own) - 1), across.T)  # and the other way, for what moves pictures
    return replace(looks, readings=looks.readings @ across.T, steps=looks.steps @ back)


def seen(recipe: Recipe, latents: Tensor) -> Tensor:
    """Features of painted pictures."""
    return torch.cat([recipe.encoder.image_tensor_features(recipe.model.decode(part)) for part in latents.split(100)])


def painted_studies(recipe: Recipe) -> dict[str, Tensor]:
    """Both sides of each look from one seed, low first: latents, features, captions and noise."""
    path = recipe.work / "studies.safetensors"
    if not path.exists():
        rng = np.random.default_rng(91)
        names = [scene.caption for scene in scenes.SCENES]
        prompts, seeds, captions = [], [], []
        for number, (low, high) in enumerate(LOOK_WORDS.values()):
            for i in range(STUDIES):
                caption = str(rng.choice(scenes.TRAINING_CAPTIONS))
                prompts += [f"{caption}, {low[0]}", f"{caption}, {high[0]}"]
                seeds += [4 * 10**6 + number * STUDIES + i] * 2
                captions += [names.index(caption)] * 2
        latents = generate(recipe.model, prompts, seeds)
        features = [recipe.encoder.image_tensor_features(recipe.model.decode(part)) for part in latents.split(100)]
        noise = torch.stack([noise_of(seed, LATENT_SHAPE) for seed in seeds])
        tensors = {
            "latents": latents,
            "features": torch.cat(features),
            "captions": torch.tensor(captions),
            "noise": noise,
        }
        save_file(tensors, path)
    return load_file(path)


def arms(beta: float, obeys: bool) -> dict[str, tuple[bool, Objective | None]]:
    """By name whether it is distilled first, and its objective, if it has one."""
    plain = replace(PLAIN, beta=beta)
    found: dict[str, tuple[bool, Objective | None]] = {
        "plain user-DPO": (False, plain),
        "true noise": (False, replace(plain, true_noise=True)),
        "soft labels": (False, Objective(beta=beta)),  # the package's own, but for beta
        "contrast": (False, replace(plain, contrast=1.0)),
        "safeguard": (False, replace(plain, safeguard=0.6)),
        "no user dropout": (False, replace(plain, user_dropout=0.0)),
        "steered beta": (False, replace(plain, beta=None, steered_beta=True)),
        "all": (False, ALL),
    }
    distilled = {"distillation": (True, None), "distillation, then soft labels": (True, Objective(beta=beta))}
    return found | (distilled if obeys else {})


def picked(known: Checkpoint, run: Evaluation, counts: Sequence[int], asked: bool) -> dict[str, Tensor]:
    """By name u [P, d] of each count of picks: of random pairs, and of those that the tab would have `asked`."""
    pool, prior = known.recipe.pool, known.prior
    found = {f"{count} picks": embed_people(pool, run.support, prior, count) for count in counts}
    if asked:
        questions = draw_questions(pool, run.people, prior, 0)
        means, _ = interview(questions, prior, next_question, max(counts), known.looks)
        found |= {f"{count} asked picks": means[count].float() for count in counts}
    return found


def reported(
    run: Evaluation, adapter: UserAdapter, base: Look, pictures: int, embeddings: dict[str, Tensor]
) -> dict[str, Any]:
    """What those who judge say of an adapter, by the picks that u is made of."""
    report: dict[str, Any] = {}
    for name, u in embeddings.items():
        own, other = (run.paint(adapter, rows, pictures=pictures) for rows in (u, u[run.other]))
        lost = np.stack([base.counts, own.counts], axis=1)
        report[name] = {
            "wins_vs_base": bootstrap(wins(own.rewards, base.rewards)),
            "own_vs_other": bootstrap(wins(own.rewards, other.rewards)),
            "reward_vs_base": bootstrap(own.rewards - base.rewards),
            "objects_f1_loss": bootstrap(lost, lambda x: micro_f1(x[:, 0]) - micro_f1(x[:, 1])),
            "out_of_range": own.out_of_range,
        }
    return report


def measure(known: Checkpoint, arguments: argparse.Namespace) -> dict[str, Any]:
    """A row an arm."""
    recipe, world = known.recipe, known.recipe.world
    run = Evaluation(recipe, arguments.people)
    base = run.paint(pictures=arguments.pictures)
    sides = [[(f"{p}, {low[0]}", f"{p}, {high[0]}") for low, high in LOOK_WORDS.values()] for p in known.picks.prompts]
    found = arms(world.beta, world.has_turbo)
    if unknown := set(arguments.arms or ()) - set(found):
        raise SystemExit(f"There is no {sorted(unknown)[0]!r} among the arms: use {', '.join(found)}.")
    embeddings = picked(known, run, arguments.picks, arguments.asked)
    report: dict[str, Any] = {}
    options = {"batch": arguments.batch, "learning_rate": arguments.rate or world.learning_rate, "seed": 11}
    for name, (taught, objective) in found.items():
        if arguments.arms and name not in arguments.arms:
            continue
        adapter = known.new_adapter()
        ran = f"{arguments.steps}" + (f"-{arguments.rate:g}" if arguments.rate else "")
        known_by = arguments.encoder + ("-nothing-shared" if arguments.nothing_shared else "-shared")
        file = f"{known_by}-{name.replace(' ', '-').replace(',', '')}-{ran}"
        if taught:
            checkpoint = recipe.work / f"{known_by}-distillation-{ran}.pt"
            whole = known.people.embeddings(known.prior.noise)
            adapter = distil(
                recipe.model,
                adapter,
                known.picks,
                known.people,
                whole,
                sides,
                checkpoint,
                steps=arguments.steps,
                **options,
            )
        if objective is not None:
            adapter = train_adapter(
                recipe.model,
                adapter,
                known.picks,
                recipe.work / f"{file}.pt",
                steps=arguments.steps,
                objective=objective,
                fresh=not taught,
                name=name,
                **options,
            )
        gains = LEAST_GAINS if arguments.least else GAINS
        liked = known.liked_by_gain(adapter, gains)
        shares = {gain: share_picked(logits) for gain, logits in liked.items()}
        if arguments.least:
            gain = smallest_as_good({one: (logits > 0).double().mean().item() for one, logits in liked.items()}, TUNING)
        else:
            gain = strength_of(shares)
        judged = {
            one: reported(run, adapter.scaled(one), base, arguments.pictures, embeddings)
            for one in (gains if arguments.gains else (gain,))
        }
        report[name] = {"gain": gain, "picked": shares[gain][0], **judged[gain]}
        if arguments.gains:
            report[name]["gains"] = {"0": {"out_of_range": base.out_of_range}}
            report[name]["gains"] |= {f"{one:g}": {"picked": shares[one][0], **judged[one]} for one in gains}
        print(name, json.dumps(report[name]), flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.self_training")
    parser.add_argument("--world", choices=tuple(WORLDS), default="pocket-flow")
    parser.add_argument("--arms", nargs="+", help="only these rows")
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=1, help="of each (default: 1)")
    parser.add_argument("--picks", type=int, nargs="+", default=[4], help="that u is made of (default: 4)")
    parser.add_argument("--asked", action="store_true", help="also of as many picks that the tab asked")
    parser.add_argument("--least", action="store_true", help="strength 1 is the least that wins as often as any")
    parser.add_argument("--gains", action="store_true", help="also at each gain that strength 1 might have had")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, help="the learning rate (default: the world's)")
    parser.add_argument("--encoder", choices=("own", "shipped"), default="own", help="(default: own)")
    parser.add_argument("--nothing-shared", action="store_true", help="simulated people share nothing")
    parser.add_argument("--work", type=Path, help="folder of the world's recipe (default: .work, .work-flow)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    work = arguments.work or Path(f".work{arguments.world.removeprefix('pocket')}")
    recipe = Recipe(work, ROOT / "weights", WORLDS[arguments.world])
    recipe.make("pool")
    known = Checkpoint.of(recipe, arguments.encoder == "shipped", not arguments.nothing_shared)
    print(f"{known.prior.dim} dimensions, looks: {', '.join(known.looks.names)}", flush=True)
    settings = {name: value for name, value in vars(arguments).items() if name not in ("arms", "work", "json")}
    report = {"settings": settings, **measure(known, arguments)}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
