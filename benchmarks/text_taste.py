"""`python -m benchmarks.text_taste`: what words alone do on an embedded world, painted by ComfyUI as artists paint.

The same people, captions, seeds, judge and objects as `python -m ppd evaluate`, and its pairs: u and its certainty come
from `--pairs` picks each. Per way (words on the tokens, by either rule for unconditional rows; words in the prompt) and
strength: wins against the base, against another person's taste, objects lost, and shares out of range. Beside them how
often a look that is called sure or likely has the sign of the person's hidden weight, and what a step costs. With
`--adapter` that user adapter too, alone and together with the words on the tokens.

The U-Net pocket was taught no words for looks, so that there it shows what moving tokens for nothing costs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppd.encoders.encoder import embedding_hash
from ppd.encoders.posterior import fit_posteriors
from ppd.evaluation import bootstrap, micro_f1, wins
from ppd.pocket.classifier import objects_found
from ppd.pocket.evaluate import Evaluation, Look
from ppd.pocket.painter import GUIDANCE
from ppd.pocket.recipe import Recipe
from ppd.pocket.statistics import STATISTICS
from ppd.pocket.world import WORLDS, World
from ppd.text_taste import LEAST_SURE, SURE, Leaning, leanings, on_prompt, told
from ppd.user_embedding import UserEmbedding, covariance_factor

from .pocket_step import ROOT, load_pack

STRENGTHS = (0.5, 1.0, 2.0, 3.0)
BATCH = 50
PICTURES = 2


@dataclass(frozen=True)
class Sampled:
    """How ComfyUI samples an embedded world's model."""

    sampler: str = "dpmpp_2m"
    scheduler: str = "normal"
    steps: int = 12
    latent: tuple[int, int] = (16, 16)


SAMPLED = {"pocket": Sampled(), "pocket-flow": Sampled("euler", "simple")}


class Painter:
    """A world's MODEL in ComfyUI, and its CLIP and VAE."""

    def __init__(self, world: World) -> None:
        load_pack()
        from ppd_pack.ppd.pocket.comfyui import load_pocket

        self.model, self.clip, self.vae = load_pocket(world.file(ROOT / "weights", "base"))
        self.sampled_by = SAMPLED[world.name]
        self.texts: dict[str, Tensor] = {}

    def text(self, prompt: str) -> Tensor:
        """A prompt's tokens [1, L, D]."""
        if prompt not in self.texts:
            self.texts[prompt] = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt))[0][0]
        return self.texts[prompt]

    def paint(self, prompts: Sequence[str], seeds: Sequence[int], personal: Callable[[slice], Any]) -> Tensor:
        """Pictures [n, 3, H, W] in 0..1; `personal` gives the MODEL for a slice of them."""
        parts = []
        for start in range(0, len(prompts), BATCH):
            rows = slice(start, min(start + BATCH, len(prompts)))
            with torch.inference_mode():
                decoded = self.vae.decode(self.sampled(prompts[rows], seeds[rows], personal(rows)))
            parts.append(decoded.reshape(-1, *decoded.shape[-3:]).movedim(-1, 1).cpu())
        return torch.cat(parts)

    def sampled(self, prompts: Sequence[str], seeds: Sequence[int], model: Any) -> Tensor:
        """Latents of one batch."""
        from comfy.samplers import KSampler

        texts = [self.text(prompt) for prompt in prompts]
        if len({len(text[0]) for text in texts}) > 1:
            raise ValueError("The prompts' texts have several lengths: this world needs a batch for each length.")
        form, by = self.model.model.latent_format, self.sampled_by
        shape = (form.latent_channels, *[1] * (form.latent_dimensions - 2), *by.latent)
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        device, options = model.load_device, model.model_options
        sampler = KSampler(model, by.steps, device, by.sampler, by.scheduler, 1.0, options)
        positive, negative = [[torch.cat(texts), {}]], [[self.text("").expand(len(texts), -1, -1), {}]]
        return sampler.sample(noise, positive, negative, GUIDANCE, torch.zeros_like(noise), disable_pbar=True)


class Words:
    """Everybody's leanings, and what is painted by them."""

    def __init__(self, world: World, work: Path, people: int, pairs: int, lexicon: Mapping[str, Any]) -> None:
        self.recipe = Recipe(work, ROOT / "weights", world)
        self.recipe.make("pool")
        self.run, self.painter = Evaluation(self.recipe, people), Painter(world)
        pool, support, prior = self.recipe.pool, self.run.support, self.recipe.prior
        x = prior.differences(pool.features[support.chosen[:, :pairs]], pool.features[support.rejected[:, :pairs]])
        ones = torch.ones(x.shape[:2])
        means, covariances = fit_posteriors(x, ones, ones, prior.mean, prior.covariance)
        self.embeddings = [
            UserEmbedding(
                mean[None].float(),
                prior.encoder,
                embedding_hash(prior),
                pairs,
                "2026-01-01",
                covariance_factor(covariance).float(),
            )
            for mean, covariance in zip(means, covariances, strict=True)
        ]
        self.people = [leanings(u, self.recipe.looks, prior.noise, lexicon) for u in self.embeddings]
        self.captions = [str(caption) for caption in self.run.captions[:, :PICTURES].flat]
        self.seeds = self.run.seeds[:, :PICTURES].flatten().tolist()

    def base(self) -> Look:
        """The world's own pictures."""
        return self._judged(self.painter.paint(self.captions, self.seeds, lambda rows: self.painter.model))

    def on_tokens(
        self, strength: float, unconditional: Any, people: Sequence[Sequence[Any]], adapter: Path | None = None
    ) -> Look:
        """Prompts whose tokens are moved, and a user adapter beside."""
        from ppd_pack.ppd.hosts.comfyui_contrasts import text_taste
        from ppd_pack.ppd.hosts.comfyui_text import apply_text

        everybody: list[Any] = [people[index // PICTURES] for index in range(len(self.captions))]
        model, clip = self.painter.model, self.painter.clip

        @torch.inference_mode()
        def personal(rows: slice) -> Any:
            taste = text_taste(model, clip, everybody[rows], strength, unconditional=unconditional)
            return apply_text(self._adapted(adapter, rows), taste)

        return self._judged(self.painter.paint(self.captions, self.seeds, personal))

    def by_adapter(self, adapter: Path) -> Look:
        """A user adapter alone."""
        return self._judged(
            self.painter.paint(self.captions, self.seeds, lambda rows: self._adapted(adapter, rows)),
        )

    def _adapted(self, adapter: Path | None, rows: slice) -> Any:
        from ppd_pack.ppd.hosts.comfyui import apply_user, load_adapter

        if adapter is None:
            return self.painter.model
        owners: list[Any] = [self.embeddings[index // PICTURES] for index in range(len(self.captions))[rows]]
        with torch.inference_mode():
            return apply_user(self.painter.model, load_adapter(adapter), owners)

    def in_prompts(self, most: int, least: float) -> Look:
        """Prompts with the words that Taste to Text puts on them."""
        found = [told(person, most, least) for person in self.people]
        prompts = [on_prompt(caption, found[index // PICTURES]) for index, caption in enumerate(self.captions)]
        return self._judged(self.painter.paint(prompts, self.seeds, lambda rows: self.painter.model))

    def others(self) -> list[list[Leaning]]:
        """For each person another one's leanings."""
        return [self.people[index] for index in self.run.other]

    def _judged(self, pictures: Tensor) -> Look:
        """As `Evaluation.paint` judges them."""
        statistics = torch.cat([self.recipe.world.statistics(part) for part in pictures.split(100)])
        found = np.concatenate([objects_found(self.recipe.classifier, part).numpy() for part in pictures.split(100)])
        named = self.run.labels[:, :PICTURES].reshape(len(found), -1)
        counts = np.stack([(found & named).sum(1), found.sum(1), named.sum(1)], 1).astype(np.float64)
        shape = (self.run.count, PICTURES)
        scores = self.recipe.whitening.scores(statistics).unflatten(0, shape)
        return Look(self.run.people, scores, counts.reshape(*shape, 3))


def figures(look: Look, base: Look) -> dict[str, Any]:
    """What is said of one way."""
    lost = np.stack([base.counts, look.counts], axis=1)
    return {
        "wins_vs_base": bootstrap(wins(look.rewards, base.rewards)),
        "reward": float(look.rewards.mean() - base.rewards.mean()),
        "objects_f1_loss": bootstrap(lost, lambda x: micro_f1(x[:, 0]) - micro_f1(x[:, 1])),
        "out_of_range": look.out_of_range,
    }


def said(words: Words) -> dict[str, float]:
    """How often what is called sure or likely has the sign of the person's hidden weight."""
    kinds: dict[str, list[bool]] = {"sure": [], "likely": [], "unsure": []}
    for person, weights in zip(words.people, words.run.people.weights, strict=True):
        for one in person:
            assert one.certainty is not None
            kind = "sure" if one.certainty >= SURE else "likely" if one.certainty >= LEAST_SURE else "unsure"
            kinds[kind].append((one.effect > 0) == bool(weights[STATISTICS.index(one.look.id)] > 0))
    total = sum(map(len, kinds.values()))
    return {
        **{f"{kind}_right": float(np.mean(right)) if right else float("nan") for kind, right in kinds.items()},
        **{f"{kind}_share": len(right) / total for kind, right in kinds.items()},
    }


@torch.inference_mode()
def step_vs_plain(words: Words, rounds: int = 30) -> dict[str, float]:
    """The time of a run with moved tokens over a plain run's, of one picture, as `benchmarks.pocket_step` has it."""
    from ppd_pack.ppd.hosts.comfyui_contrasts import text_taste
    from ppd_pack.ppd.hosts.comfyui_text import apply_text

    painter, ratios = words.painter, []
    people: list[Any] = words.people[:1]
    personal = apply_text(painter.model, text_taste(painter.model, painter.clip, people))

    def seconds(model: Any) -> float:
        begun = time.perf_counter()
        painter.sampled(words.captions[:1], words.seeds[:1], model)
        return time.perf_counter() - begun

    seconds(painter.model), seconds(personal)
    for number in range(rounds):
        order = (painter.model, personal) if number % 2 else (personal, painter.model)
        times = {id(model): seconds(model) for model in order}
        ratios.append(times[id(personal)] / times[id(painter.model)])
    return bootstrap(np.array(ratios), lambda sample: float(np.median(sample)))


def measure(words: Words, strengths: Sequence[float], adapter: Path | None = None) -> dict[str, Any]:
    """All ways; the first strength's twin by another person too."""
    base = words.base()
    report: dict[str, Any] = {"said": said(words), "step_vs_plain": step_vs_plain(words)}
    for rule in ("none", "opposite"):
        for strength in strengths:
            look = words.on_tokens(strength, rule, words.people)
            report[f"tokens, unconditional {rule}, strength {strength:g}"] = figures(look, base)
            if strength == 1:
                other = words.on_tokens(strength, rule, words.others())
                report[f"own_vs_other, unconditional {rule}"] = bootstrap(wins(look.rewards, other.rewards))
    if adapter is not None:
        report["adapter alone"] = figures(words.by_adapter(adapter), base)
        for strength in strengths:
            look = words.on_tokens(strength, "none", words.people, adapter)
            report[f"adapter, and tokens, strength {strength:g}"] = figures(look, base)
    for most, least in ((1, 0.5), (3, 0.5), (3, LEAST_SURE), (6, LEAST_SURE)):
        report[f"in the prompt, at most {most}, {least:.0%} sure"] = figures(words.in_prompts(most, least), base)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text_taste")
    parser.add_argument("--world", choices=tuple(SAMPLED), default="pocket")
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=4, help="picks of each (default: 4)")
    parser.add_argument("--strengths", type=float, nargs="+", default=list(STRENGTHS))
    parser.add_argument("--adapter", type=Path, help="file of a user adapter to compare and combine with")
    parser.add_argument("--work", type=Path, help="folder of the world's recipe (default: .work, .work-flow)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    work = arguments.work or Path(f".work{arguments.world.removeprefix('pocket')}")
    words = Words(WORLDS[arguments.world], work, arguments.people, arguments.pairs, lexicon={})
    report = {
        "settings": {"world": arguments.world, "people": arguments.people, "pairs": arguments.pairs},
        **measure(words, arguments.strengths, arguments.adapter),
    }
    print(json.dumps(report, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
