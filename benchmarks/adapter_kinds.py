"""`python -m benchmarks.adapter_kinds`: which kind of user adapter an embedded world's denoiser learns best.

Every kind is trained by the recipe's user-DPO with the same picks, steps, batch and beta. Learning rate and strength
are chosen on tuning people, strength by the recipe's rule (`Recipe.tuned`). Then reporting people judge, on held-out
captions, as in `python -m ppd evaluate`: wins against the base, of one's own u against another's, objects lost.

The low-rank kind and a U-Net's keys and values are the package's own. The rivals for the transformer live here alone:

    keys and values   softmax(q K(u)) V(u), added to what a block's picture tokens take from attention (IP-Adapter)
    modulation        B C u, added to a block's modulation (adaLN)
    tokens            B C u as tokens behind the prompt's; before any training they are seen already, as zeros, so that
                      this kind alone does not begin at the base
"""

from __future__ import annotations

import argparse
import json
import logging
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from ppd.adapters import AdapterConfig, UserAdapter
from ppd.evaluation import bootstrap, micro_f1, wins
from ppd.pocket.adapters import keys_values, low_rank
from ppd.pocket.evaluate import PAIRS, Evaluation, Look
from ppd.pocket.flow import FLOW_CONTEXT, FlowModel, PlainAttention
from ppd.pocket.painter import LATENT_SHAPE
from ppd.pocket.people import People
from ppd.pocket.recipe import Recipe
from ppd.pocket.world import WORLDS
from ppd.training.adapter import train_adapter
from ppd.training.settings import Objective

from .pocket_step import ROOT

TOKENS = 4
RANK = 16


@dataclass(frozen=True, kw_only=True)
class RivalConfig(AdapterConfig):
    """One that acts everywhere."""

    kind = "rival"
    places = "blocks"

    @property
    def count(self) -> int:
        return 1

    def places_of(self, part: str) -> tuple[int, ...]:
        return (0,)


class Rival(UserAdapter):
    """w = C u, and per block B w of `width` numbers, zero at birth."""

    config_class = RivalConfig

    def __init__(self, model: FlowModel, width: int, blocks: int, **config: Any) -> None:
        super().__init__()
        self.config = RivalConfig(family=model.family, **config)
        self.directions = nn.Parameter(torch.empty(RANK, self.config.embedding_dim))
        self.up = nn.ParameterList(torch.empty(width, RANK) for _ in range(blocks))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.directions)
        for up in self.up:
            nn.init.zeros_(up)

    def first_layer(self) -> nn.Parameter:
        return self.directions

    def last_layers(self) -> list[Tensor]:
        return list(self.up)

    @classmethod
    @abstractmethod
    def of(cls, model: FlowModel, **given: Any) -> Self:
        """A new one for the model."""

    @abstractmethod
    def hooks(self, denoiser: nn.Module, w: Now) -> Iterator[Any]:
        """Puts it into the denoiser: the handles to take it out by."""


@dataclass
class Now:
    """What the running call of the denoiser is for: w [B, K], zero in rows that are not personal."""

    w: Tensor | None = None


class Modulation(Rival):
    """To the modulation of every block's two streams."""

    @classmethod
    def of(cls, model: FlowModel, **given: Any) -> Self:
        layers = _modulations(model.denoiser)
        return cls(model, layers[0].out_features, len(layers), **given)  # type: ignore[arg-type]

    def hooks(self, denoiser: nn.Module, w: Now) -> Iterator[Any]:
        def added(up: Tensor) -> Any:
            return lambda layer, args, out: out if w.w is None else out + (w.w @ up.T).to(out.dtype)

        for layer, up in zip(_modulations(denoiser), self.up, strict=True):
            yield layer.register_forward_hook(added(up))


def _modulations(denoiser: Any) -> list[nn.Module]:
    return [part[1] for block in denoiser.transformer_blocks for part in (block.img_mod, block.txt_mod)]


class KeysValues(Rival):
    """TOKENS keys and values a block, attended to by the picture's tokens apart from the prompt's."""

    @classmethod
    def of(cls, model: FlowModel, **given: Any) -> Self:
        blocks = model.denoiser.transformer_blocks
        made = cls(model, TOKENS * blocks[0].attn.to_q.out_features, len(blocks), **given)
        made.keys = nn.ParameterList(torch.empty_like(up) for up in made.up)
        made.reset_parameters()
        return made

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for key in getattr(self, "keys", ()):
            nn.init.normal_(key, std=RANK**-0.5)

    def hooks(self, denoiser: Any, w: Now) -> Iterator[Any]:
        def added(attention: Any, key: Tensor, up: Tensor) -> Iterator[Any]:
            queries: list[Tensor] = []

            def attend(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
                q = queries.pop()
                if w.w is None:
                    return None
                heads = (TOKENS, attention.heads, -1)
                k, v = ((w.w @ weight.T).unflatten(1, heads).transpose(1, 2) for weight in (key, up))
                q = q.transpose(1, 2).to(k.dtype)
                scores = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)
                return (args[0] + (scores @ v).transpose(1, 2).flatten(2).to(args[0].dtype),)

            yield attention.norm_q.register_forward_hook(lambda layer, args, q: queries.append(q))
            yield attention.to_out[0].register_forward_pre_hook(attend)

        parts: Any = self
        for block, key, up in zip(denoiser.transformer_blocks, parts.keys, parts.up, strict=True):
            yield from added(block.attn, key, up)


class Tokens(Rival):
    """TOKENS tokens behind the prompt's, where those have been normalised, which erases length."""

    @classmethod
    def of(cls, model: FlowModel, **given: Any) -> Self:
        return cls(model, TOKENS * model.denoiser.txt_in.in_features, 1, **given)

    def hooks(self, denoiser: Any, w: Now) -> Iterator[Any]:
        def lengthen(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            text = kwargs["encoder_hidden_states"]
            return args, {**kwargs, "encoder_hidden_states": nn.functional.pad(text, (0, 0, 0, TOKENS))}

        def fill(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            text = args[0][:, :-TOKENS]
            own = w.w @ self.up[0].T if w.w is not None else text.new_zeros(len(text), len(self.up[0]))
            return (torch.cat([text, own.unflatten(1, (TOKENS, -1)).to(text.dtype)], 1),)

        yield denoiser.register_forward_pre_hook(lengthen, with_kwargs=True)
        yield denoiser.txt_in.register_forward_pre_hook(fill)


class RivalHost:
    """What DiffusersHost does for the package's kinds."""

    def __init__(self, model: RivalFlow, adapter: Rival) -> None:
        self.model, self.adapter = model, adapter

    @contextmanager
    def personalized(self, u: Tensor, strength: float = 1.0) -> Iterator[None]:
        """As DiffusersHost."""
        if not u.any() or strength == 0:
            yield
            return
        now, rows = Now(), strength * (u[:, 0] @ self.adapter.directions.T)
        last = self.model._sigma_at(self.adapter.config.end_percent) - 1e-5

        def begin(denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            gate = kwargs["timestep"] >= last
            now.w = rows * gate[:, None] if gate.any() else None

        denoiser = self.model.denoiser
        tokens = FLOW_CONTEXT + (TOKENS if isinstance(self.adapter, Tokens) else 0)
        with ExitStack() as stack:
            stack.callback(denoiser.register_forward_pre_hook(begin, with_kwargs=True).remove)
            for handle in self.adapter.hooks(denoiser, now):
                stack.callback(handle.remove)
            with self.model.attention_to(tokens):
                yield


class RivalFlow(FlowModel):
    """Pocket flow, personalised by rivals."""

    is_plain = False

    def host(self, adapter: Any) -> Any:
        return RivalHost(self, adapter) if isinstance(adapter, Rival) else super().host(adapter)

    @contextmanager
    def attention_to(self, tokens: int) -> Iterator[None]:
        """Plain attention, where that is on, to so many tokens of text."""
        processors = self.denoiser.attn_processors
        if self.is_plain:
            rows, columns = (side // 2 for side in LATENT_SHAPE[1:])
            self.denoiser.set_attn_processor(PlainAttention(self.denoiser, rows, columns, tokens))
        try:
            yield
        finally:
            self.denoiser.set_attn_processor(processors)

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        self.is_plain = True
        try:
            with super().plain_attention():
                yield
        finally:
            self.is_plain = False


KINDS: dict[str, dict[str, Any]] = {
    "pocket": {"low rank": low_rank, "keys and values": keys_values},
    "pocket-flow": {
        "low rank": low_rank,
        "keys and values": KeysValues.of,
        "modulation": Modulation.of,
        "tokens": Tokens.of,
    },
}
RATES = (5e-4, 2e-3)
TUNING = 100
"""People on whom learning rate and strength are chosen."""


def trained(recipe: Recipe, kind: str, rate: float, arguments: argparse.Namespace) -> UserAdapter:
    """A kind, trained at a learning rate and scaled on tuning people."""
    model, encoder = recipe.model, recipe.encoder
    config = {
        "encoder": encoder.name,
        "encoder_hash": encoder.weight_hash,
        "embedding_dim": recipe.prior.dim,
        "end_percent": recipe.world.end_percent,
    }
    name = f"kind-{kind.replace(' ', '-')}-{rate:g}-{recipe.world.beta:g}-{arguments.steps}-{arguments.batch}"
    adapter = train_adapter(
        model,
        KINDS[recipe.world.name][kind](model, **config),
        recipe.picks,
        recipe.work / f"{name}.pt",
        steps=arguments.steps,
        seed=11,
        batch=arguments.batch,
        learning_rate=rate,
        objective=Objective(beta=recipe.world.beta, contrast=0.0, soft_labels=False),
        name=name,
    )
    return recipe.tuned(adapter, personal=True)


def reported(run: Evaluation, adapter: UserAdapter, base: Look, pictures: int) -> dict[str, Any]:
    """What is said of a kind."""
    own_u = run.embeddings(PAIRS)
    own, other = (run.paint(adapter, u, pictures=pictures) for u in (own_u, own_u[run.other]))
    lost = np.stack([base.counts, own.counts], axis=1)
    return {
        "wins_vs_base": bootstrap(wins(own.rewards, base.rewards)),
        "own_vs_other": bootstrap(wins(own.rewards, other.rewards)),
        "reward_vs_base": bootstrap(own.rewards - base.rewards),
        "objects_f1_loss": bootstrap(lost, lambda x: micro_f1(x[:, 0]) - micro_f1(x[:, 1])),
        "out_of_range": own.out_of_range,
        "parameters": sum(weight.numel() for weight in adapter.parameters()),
    }


def measure(recipe: Recipe, arguments: argparse.Namespace) -> dict[str, Any]:
    """A row a kind."""
    tuning = recipe.people["tuning"]
    recipe.people["tuning"] = People(tuning.weights[:TUNING], tuning.types[:TUNING])
    run = Evaluation(recipe, arguments.people)
    base = run.paint(pictures=arguments.pictures)
    report: dict[str, Any] = {}
    for kind in KINDS[recipe.world.name]:
        tried = {rate: trained(recipe, kind, rate, arguments) for rate in arguments.rates}
        rate = max(tried, key=lambda rate: tried[rate].config.training["tuning_wins"])
        adapter = tried[rate]
        report[kind] = {
            "learning_rate": rate,
            "tried": {f"{rate:g}": one.config.training["tuning_wins"] for rate, one in tried.items()},
            "gain": adapter.config.training["gain"],
            **reported(run, adapter, base, arguments.pictures),
        }
        print(kind, json.dumps(report[kind]), flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapter_kinds")
    parser.add_argument("--world", choices=tuple(KINDS), default="pocket-flow")
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=2, help="of each (default: 2)")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="learning rates")
    parser.add_argument("--work", type=Path, help="folder of the world's recipe (default: .work, .work-flow)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    work = arguments.work or Path(f".work{arguments.world.removeprefix('pocket')}")
    world = WORLDS[arguments.world]
    recipe = Recipe(work, ROOT / "weights", replace(world, model=RivalFlow) if world.model is FlowModel else world)
    recipe.make("classifier", "pool", "latents", "statistics")
    settings = {name: getattr(arguments, name) for name in ("world", "people", "pictures", "steps", "batch", "rates")}
    report = {"settings": settings, **measure(recipe, arguments)}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
