"""Training of the second world's base: rectified flow from nothing, on captions of which half name looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import QwenImageTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from ..training.loop import device_of, fit
from . import scenes
from .data import PictureSet
from .flow import FLOW_CONFIG, FLOW_CONTEXT, FLOW_TEXT_CONFIG, PlainAttention, flow_vocabulary, velocity
from .look_words import styled_caption
from .text import full_text_encoder, small_text_encoder, tokenize

DROPPED = 0.1
"""Share of prompts left empty, for guidance."""
NOISE_LEVEL = (0.4, 1.1)
"""Mean and standard deviation of logit t (Esser et al., arXiv 2403.03206), a little more of the noisy half: it decides
what is where."""
LOOKS_NOISE_LEVEL = (2.2, 0.8)
"""The same of half the rows while words for looks are learned. How warm a picture is shows through nearly pure noise,
in the mean over everything: only above that a word says something new."""
LOOKS_SHARE = 0.9
"""Of captions that name looks, then."""


class FlowBase(nn.Module):
    """What the training trains: the transformer and the text encoder together."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = QwenImageTransformer2DModel(**FLOW_CONFIG)
        self.text_encoder = small_text_encoder(FLOW_TEXT_CONFIG, flow_vocabulary())
        for block in self.transformer.transformer_blocks:  # each starts as the identity (adaLN-Zero)
            for modulation in (block.img_mod[1], block.txt_mod[1]):
                nn.init.zeros_(modulation.weight)
                nn.init.zeros_(modulation.bias)
        nn.init.zeros_(self.transformer.proj_out.weight)
        nn.init.zeros_(self.transformer.proj_out.bias)


def draw_prompts(data: PictureSet, index: np.ndarray, rng: np.random.Generator, share: float = 0.5) -> list[str]:
    """A prompt for each picture: its caption, a `share` of them with looks that are true of it, a tenth empty."""
    prompts = []
    for i in index:
        style = dict(zip(scenes.STYLES, data.styles[i].tolist(), strict=True))
        prompt = styled_caption(scenes.SCENES[data.captions[i]].caption, style, rng, share)
        prompts.append("" if rng.random() < DROPPED else prompt)
    return prompts


def train_flow(
    latents: Tensor, data: PictureSet, checkpoint: Path, steps: int, batch: int = 32, seed: int = 2
) -> tuple[QwenImageTransformer2DModel, CLIPTextModel, Tensor]:
    """Flow matching from nothing on scaled latents [n, 4, 16, 16] of `data`: the velocity noise - x0 at
    (1 - t) x0 + t noise; then a fifth of the steps more for the words for looks. Transformer, text encoder and
    vocabulary; resumes."""
    torch.manual_seed(seed)
    model = FlowBase()
    rows, columns = (side // 2 for side in latents.shape[2:])
    processors = model.transformer.attn_processors
    model.transformer.set_attn_processor(PlainAttention(model.transformer, rows, columns, FLOW_CONTEXT))
    vocabulary = flow_vocabulary()

    def error(
        module: FlowBase, rng: np.random.Generator, share: float, levels: tuple[tuple[float, float], ...]
    ) -> tuple[Tensor, dict[str, float]]:
        """`levels` of noise, which the rows take in turns."""
        index = rng.integers(len(latents), size=batch)
        device = device_of(module)
        tokens = torch.searchsorted(vocabulary, tokenize(draw_prompts(data, index, rng, share), FLOW_CONTEXT))
        context = module.text_encoder(tokens.to(device)).last_hidden_state
        x0 = latents[torch.from_numpy(index)].to(device)
        noise = torch.randn_like(x0)
        mean, deviation = torch.tensor(levels)[torch.arange(batch) % len(levels)].T
        t = torch.sigmoid(mean + deviation * torch.randn(batch)).to(device)
        at = t.view(-1, 1, 1, 1)
        predicted = velocity(module.transformer, (1 - at) * x0 + at * noise, t, context).float()
        value = (predicted - (noise - x0)).square().mean()
        return value, {"mse": value.item()}

    model = fit(
        "base",
        model,
        lambda module, rng, step: error(module, rng, 0.5, (NOISE_LEVEL,)),
        steps=steps,
        learning_rate=2e-3,
        checkpoint=checkpoint,
        seed=seed,
        muon=True,
    )
    model = fit(
        "words for looks",
        model,
        lambda module, rng, step: error(module, rng, LOOKS_SHARE, (NOISE_LEVEL, LOOKS_NOISE_LEVEL)),
        steps=-(-steps // 5),
        learning_rate=1e-3,
        checkpoint=checkpoint.with_name("words.pt"),
        seed=seed + 1,
        ema=0.99,
        muon=True,
    )
    model.transformer.set_attn_processor(processors)
    return model.transformer, full_text_encoder(model.text_encoder, FLOW_TEXT_CONFIG, vocabulary), vocabulary
