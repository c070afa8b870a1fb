"""The pockets' text side: CLIP's tokens, and a small CLIP text encoder trained on the words in use alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from .base_file import END, START

CONTEXT = 77


@lru_cache(maxsize=1)
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def tokenize(prompts: Sequence[str], context: int = CONTEXT) -> Tensor:
    """CLIP token ids [n, context], padded with the end token as Stable Diffusion 1.5 does; longer prompts are cut."""
    rows = torch.full((len(prompts), context), END)
    for row, prompt in zip(rows, prompts, strict=True):
        ids = [START, *_tokenizer().encode(prompt)[: context - 2]]
        row[: len(ids)] = torch.tensor(ids)
    return rows


def vocabulary_of(texts: Iterable[str]) -> Tensor:
    """Sorted token ids that occur in any of the texts, with begin and end."""
    return torch.tensor(sorted({START, END, *(i for text in texts for i in _tokenizer().encode(text))}))


def unknown_words(prompt: str, vocabulary: Tensor) -> list[str]:
    """Parts of `prompt` that have no row in the pocket's vocabulary, as the tokenizer cuts them."""
    known = set(vocabulary.tolist())
    parts = [_tokenizer().decode([i]).strip() for i in _tokenizer().encode(prompt) if i not in known]
    return [part for part in parts if any(map(str.isalnum, part))]  # a comma says nothing to begin with


def small_text_encoder(config: dict[str, Any], vocabulary: Tensor) -> CLIPTextModel:
    """A new text encoder with a table of `vocabulary` alone: AdamW would walk through all 49,408 rows at every step."""
    small = {**config, "vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": 1}
    return CLIPTextModel(CLIPTextConfig(**small))


def full_text_encoder(small: CLIPTextModel, config: dict[str, Any], vocabulary: Tensor) -> CLIPTextModel:
    """The text encoder behind the whole CLIP vocabulary; words that no caption uses are zero."""
    full = CLIPTextModel(CLIPTextConfig(**config))
    state = dict(small.state_dict())
    name = next(key for key in state if key.endswith("token_embedding.weight"))
    table = torch.zeros(config["vocab_size"], config["hidden_size"])
    table[vocabulary] = state[name].cpu()
    full.load_state_dict({**state, name: table})
    return full


def named_like(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers 5 dropped the prefix `text_model.` that transformers 4, ComfyUI and our files have."""
    prefixed = any(name.startswith("text_model.") for name in module.state_dict())
    return {name if prefixed else name.removeprefix("text_model."): value.float() for name, value in tensors.items()}
