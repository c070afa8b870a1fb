"""`python -m benchmarks.painted_tilting`: what people think of pictures that an IP-Adapter paints for them, by tilting
and by averaging.

Real IP-Adapters are too large to run here, so one is trained for the pocket model with IP-Adapter's own objective: to
denoise drawn pictures, each shown to itself through the pocket encoder's features (the taste encoder's too).
The pocket's simulated people (hidden linear rewards over pixel statistics, split from those that anything was tuned on)
pick between drawn pictures; then held-out captions are painted by the base and for each of them, in all layers, cfg 4.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from ppd.adapters.attention import user_attention
from ppd.adapters.cross_attention import UserLayer
from ppd.adapters.ip_adapter import ImageProjection, IPAdapter, TasteIPAdapter
from ppd.evaluation import bootstrap, wins
from ppd.hosts.diffusers import DiffusersHost, cross_attentions
from ppd.pocket import scenes
from ppd.pocket.autoencoder import encode_pictures
from ppd.pocket.data import to_tensor
from ppd.pocket.model import SCHEDULE, PocketModel
from ppd.pocket.painter import generate
from ppd.pocket.people import People, population
from ppd.pocket.statistics import CLIP, Whitening, picture_statistics, reward_statistics
from ppd.pocket.studio import WEIGHTS, load_encoder
from ppd.pocket.taste import Pool, draw_support, embed_people

from .tilting import middle

TOKENS, CFG, BATCH = 4, 4.0, 16


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Captions (as numbers of training captions) and drawn pictures [n, 128, 128, 3] in random styles."""
    rng = np.random.default_rng(seed)
    captions = rng.integers(len(scenes.TRAINING_CAPTIONS), size=count)
    pictures = [
        scenes.render(scenes.TRAINING_CAPTIONS[caption], scenes.random_style(rng), 10**6 * seed + number)
        for number, caption in enumerate(captions)
    ]
    return captions, np.stack(pictures)


def train(model: PocketModel, features: Tensor, captions: np.ndarray, pictures: np.ndarray, steps: int) -> IPAdapter:
    """An IP-Adapter that shows each picture to itself; keys and values start at the prompt's, as IP-Adapter's do."""
    torch.manual_seed(0)
    rng = np.random.default_rng(5)
    latents = encode_pictures(model.vae, pictures) * model.latent_scale
    attentions = cross_attentions(model.denoiser)
    width = model.denoiser.config.cross_attention_dim
    adapter = IPAdapter("pocket", ImageProjection(features.shape[1], TOKENS, width), [a.inner_dim for a in attentions])
    layers: list[UserLayer] = list(adapter.layers)  # type: ignore[arg-type]
    with torch.no_grad():
        for layer, attention in zip(layers, attentions, strict=True):
            layer.to_k_user.weight.copy_(attention.to_k.weight)
            layer.to_v_user.weight.copy_(attention.to_v.weight)
    model.denoiser.set_attn_processor(AttnProcessor())
    shown: dict[str, Tensor] = {}
    queries: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        return lambda module, args, out: queries.__setitem__(number, out)

    def add(number: int, layer: UserLayer, heads: int) -> Any:
        def hook(module: Any, args: Any) -> Any:
            k, v = layer.to_k_user(shown["tokens"]), layer.to_v_user(shown["tokens"])
            return (args[0] + user_attention(queries.pop(number), k, v, heads), *args[1:])

        return hook

    hooks = []
    for number, (layer, attention) in enumerate(zip(layers, attentions, strict=True)):
        hooks.append(attention.to_q.register_forward_hook(keep(number)))
        hooks.append(attention.to_out[0].register_forward_pre_hook(add(number, layer, attention.heads)))
    contexts, empty = model.text(scenes.TRAINING_CAPTIONS), model.text([""])
    schedule = DDPMScheduler(**SCHEDULE)
    optimizer = torch.optim.AdamW(adapter.parameters(), 1e-3, weight_decay=0.01)
    averaged = {name: x.clone() for name, x in adapter.state_dict().items()}
    for _ in tqdm(range(steps), desc="training the IP-Adapter", mininterval=2.0):
        index = torch.from_numpy(rng.integers(len(latents), size=BATCH))
        x0, t = latents[index], torch.from_numpy(rng.integers(0, 1000, BATCH))
        noise, dropped = torch.randn_like(x0), torch.rand(BATCH, 1, 1) < 0.1
        context = torch.where(dropped, empty, contexts[captions[index]])
        shown["tokens"] = adapter.projector(features[index] * (torch.rand(BATCH, 1) > 0.05))
        error = (model.denoiser(schedule.add_noise(x0, noise, t), t, context).sample - noise).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        for name, x in adapter.state_dict().items():
            averaged[name].lerp_(x, 0.01)
    for hook in hooks:
        hook.remove()
    adapter.load_state_dict(averaged)
    return adapter.requires_grad_(False)


class NotSubtracted(TasteIPAdapter):
    """Tilting that paints the mean picture as well."""

    groups = 1

    def keys_values(
        self, u: Tensor, layers: Sequence[int] | None = None, strength: float = 1.0
    ) -> list[tuple[Tensor, Tensor]]:
        return [(k[:, :TOKENS], v[:, :TOKENS]) for k, v in super().keys_values(u, layers, strength)]


class Averaged(NotSubtracted):
    """The rival: u [B, 1, 2 f + 1] is a person's displacement, the middle of their pictures, and 1, which tells the
    sides of guidance apart, as the plan turns all of u around on the unconditional one."""

    def user_tokens(self, u: Tensor, strength: float = 1.0) -> tuple[Tensor, Tensor]:
        width = self.center.shape[-1]
        shift, center, sign = u.split([width, width, 1], -1)
        tokens = self._tokens(sign * center + strength * shift)
        return tokens, tokens


def adapters(published: IPAdapter, center: Tensor, directions: Tensor) -> dict[str, TasteIPAdapter]:
    """Each way as an adapter that acts in all layers."""
    ways = {"tilting": TasteIPAdapter, "tilting, mean painted": NotSubtracted, "averaging": Averaged}
    found = {}
    for name, way in ways.items():
        found[name] = way(published, "pocket", "0" * 64, center[None], directions[:, None])
        found[name].default_part = "all"
    averaging = found["averaging"]
    averaging.config = replace(averaging.config, embedding_dim=2 * len(center) + 1)
    return found


def measure(people: int, picks: int, pictures: int, steps: int, sampling_steps: int) -> dict[str, Any]:
    """Wins against the base and against averaging, mean gain in reward, and pictures out of range, by way."""
    model, encoder = PocketModel.load(WEIGHTS / "pocket_base.safetensors"), load_encoder(WEIGHTS)
    prior, tower = encoder.prior, encoder.features.tower
    captions, images = drawn(pictures, seed=9)
    parts = [to_tensor(images[start : start + 100]) for start in range(0, pictures, 100)]
    features = torch.cat([tower.image_tensor_features(part) for part in parts])  # type: ignore[attr-defined]
    published = train(model, features, captions, images, steps)
    world = load_file(WEIGHTS / "pocket_world.safetensors")
    whitening = Whitening(world["mean"], world["matrix"])
    statistics = reward_statistics(whitening, torch.cat([picture_statistics(part) for part in parts]))
    pool = Pool(np.unique(captions, return_inverse=True)[1], statistics, features)
    everybody = population(world["covariance"])["reporting"]
    judges = People(everybody.weights[:people], everybody.types[:people])
    rng = np.random.default_rng(71)
    support = draw_support(pool, judges, picks, rng)
    u = embed_people(pool, support, prior, picks)[:, None]
    averaged = []
    for chosen, rejected in zip(features[support.chosen], features[support.rejected], strict=True):
        shift, center = middle(chosen, rejected)
        averaged.append(torch.cat([shift, center, torch.ones(1)]))
    own = adapters(published, prior.center, torch.linalg.pinv(prior.basis))
    arms = {f"{name}, strength {strength:g}": (name, strength) for name in own for strength in (1.0, 2.0)}
    prompts = [str(caption) for caption in rng.choice(scenes.HELD_OUT_CAPTIONS, people)]

    def rewards(way: str | None, strength: float = 1.0) -> tuple[np.ndarray, float]:
        host = None if way is None else DiffusersHost(model.denoiser, own[way])
        rows = torch.stack(averaged)[:, None] if way == "averaging" else u
        seeds = range(3 * 10**6, 3 * 10**6 + people)
        settings = {"guidance": CFG, "steps": sampling_steps, "strength": strength}
        latents = generate(model, prompts, seeds, host=host, u=rows, **settings)  # type: ignore[arg-type]
        scores = whitening.scores(picture_statistics(model.decode(latents)))[:, None]
        out = float((scores.abs() > CLIP).any(-1).float().mean())
        return judges.rewards(scores.clamp(-CLIP, CLIP))[:, 0].double().numpy(), out

    base, base_out = rewards(None)
    painted = {name: rewards(*arm) for name, arm in tqdm(arms.items(), desc="painting")}
    rival = painted["averaging, strength 1"][0]
    report: dict[str, Any] = {"base": {"out_of_range": base_out}}
    for name, (reward, out) in painted.items():
        report[name] = {
            "wins_vs_base": bootstrap(wins(reward, base)),
            "wins_vs_averaging": bootstrap(wins(reward, rival)),
            "gain": bootstrap(reward - base),
            "out_of_range": out,
        }
    names = ("people", "picks", "pictures", "steps", "sampling_steps")
    return report | {"settings": dict(zip(names, (people, picks, pictures, steps, sampling_steps), strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.painted_tilting")
    for name, default in (("people", 60), ("picks", 8), ("pictures", 3000), ("steps", 400), ("sampling-steps", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = {name: getattr(arguments, name) for name in ("people", "picks", "pictures", "steps", "sampling_steps")}
    figures = measure(**chosen)
    print(json.dumps(figures, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
