"""Training of the second world's base: rectified flow from nothing, on captions of which half name looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import QwenImageTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from ..training import device_of, fit
from . import scenes
from .data import PictureSet
from .flow import FLOW_CONFIG, FLOW_CONTEXT, FLOW_TEXT_CONFIG, flow_vocabulary, velocity
from .look_words import styled_caption
from .text import full_text_encoder, small_text_encoder, tokenize

DROPPED = 0.1
"""Share of prompts left empty, for guidance."""
NOISE_LEVEL = (0.4, 1.1)
"""Mean and standard deviation of logit t (Esser et al., arXiv 2403.03206), a little more of the noisy half: it decides
what is where."""


class PlainAttention:
    """The class's joint attention in real numbers and plain matrix products, for one size of picture and text.

    Complex rotations cannot be fused, and the backward of plain products is faster on CPU. The outcome is the same.
    """

    def __init__(self, transformer: QwenImageTransformer2DModel, rows: int, columns: int, tokens: int) -> None:
        turns = transformer.pos_embed([(1, rows, columns)], max_txt_seq_len=tokens, device=torch.device("cpu"))
        turn = torch.cat(turns[::-1])[:, None]  # text first, as the tokens are joined
        self.cos, self.sin = turn.real.contiguous(), turn.imag.contiguous()

    def _rotated(self, x: Tensor) -> Tensor:
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = self.cos.to(x.device), self.sin.to(x.device)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
        encoder_hidden_states_mask: None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """Picture tokens [n, S, d] and text tokens [n, T, d] to what each takes from both."""
        heads, texts = (attn.heads, -1), encoder_hidden_states.shape[1]
        q = torch.cat(
            [
                attn.norm_added_q(attn.add_q_proj(encoder_hidden_states).unflatten(-1, heads)),
                attn.norm_q(attn.to_q(hidden_states).unflatten(-1, heads)),
            ],
            1,
        )
        k = torch.cat(
            [
                attn.norm_added_k(attn.add_k_proj(encoder_hidden_states).unflatten(-1, heads)),
                attn.norm_k(attn.to_k(hidden_states).unflatten(-1, heads)),
            ],
            1,
        )
        v = torch.cat([attn.add_v_proj(encoder_hidden_states), attn.to_v(hidden_states)], 1).unflatten(-1, heads)
        q, k, v = (x.transpose(1, 2) for x in (self._rotated(q), self._rotated(k), v))
        weights = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)
        out = (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)
        return attn.to_out[0](out[:, texts:]), attn.to_add_out(out[:, :texts])


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


def draw_prompts(data: PictureSet, index: np.ndarray, rng: np.random.Generator) -> list[str]:
    """A prompt for each picture: its caption, half of them with looks that are true of it, a tenth empty."""
    prompts = []
    for i in index:
        style = dict(zip(scenes.STYLES, data.styles[i].tolist(), strict=True))
        prompt = styled_caption(scenes.SCENES[data.captions[i]].caption, style, rng)
        prompts.append("" if rng.random() < DROPPED else prompt)
    return prompts


def train_flow(
    latents: Tensor, data: PictureSet, checkpoint: Path, steps: int, batch: int = 32, seed: int = 2
) -> tuple[QwenImageTransformer2DModel, CLIPTextModel, Tensor]:
    """Flow matching from nothing on scaled latents [n, 4, 16, 16] of `data`: the velocity noise - x0 at
    (1 - t) x0 + t noise. Transformer, text encoder and vocabulary; resumes."""
    torch.manual_seed(seed)
    model = FlowBase()
    rows, columns = (side // 2 for side in latents.shape[2:])
    processors = model.transformer.attn_processors
    model.transformer.set_attn_processor(PlainAttention(model.transformer, rows, columns, FLOW_CONTEXT))
    vocabulary = flow_vocabulary()

    def loss(module: FlowBase, rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        index = rng.integers(len(latents), size=batch)
        device = device_of(module)
        tokens = torch.searchsorted(vocabulary, tokenize(draw_prompts(data, index, rng), FLOW_CONTEXT))
        context = module.text_encoder(tokens.to(device)).last_hidden_state
        x0 = latents[torch.from_numpy(index)].to(device)
        noise = torch.randn_like(x0)
        mean, deviation = NOISE_LEVEL
        t = torch.sigmoid(mean + deviation * torch.randn(batch)).to(device)
        at = t.view(-1, 1, 1, 1)
        predicted = velocity(module.transformer, (1 - at) * x0 + at * noise, t, context).float()
        error = (predicted - (noise - x0)).square().mean()
        return error, {"mse": error.item()}

    trained = fit("base", model, loss, steps=steps, learning_rate=2e-3, checkpoint=checkpoint, seed=seed, muon=True)
    trained.transformer.set_attn_processor(processors)
    return trained.transformer, full_text_encoder(trained.text_encoder, FLOW_TEXT_CONFIG, vocabulary), vocabulary
