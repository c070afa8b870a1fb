"""Vision-language models of transformers, from a folder on this computer, as towers.

The states of a middle layer at the instruction's tokens, which stand after the picture and so have seen it: read so,
taste is told better than by asking for a verdict (arXiv 2604.11374). transformers is imported when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from ..fingerprint import fingerprint, hash_with
from .pixels import to_bytes, to_image, within

INSTRUCTION = "Describe the style of this picture: its medium, line, colours, light, texture, composition and mood."
PIXELS = 448 * 448
"""Pixels that a picture is made smaller to, 256 tokens of Qwen2.5-VL: time grows with them."""
POOLING = "mean of text after picture"

Part = str | Image.Image


class LocalVLM:
    """A transformers model that reads pictures and text, with its processor; frozen, as it is, on its device."""

    def __init__(self, model: Any, processor: Any, *, name: str) -> None:
        self.model, self.processor, self.name = model.eval().requires_grad_(False), processor, name
        self.layers: nn.ModuleList = model.get_decoder().layers

    @classmethod
    def from_folder(cls, folder: Path | str, *, device: str | torch.device = "cpu") -> LocalVLM:
        """A model as `save_pretrained` writes it, safetensors only, in the type its file has; nothing is downloaded."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"Expected a vision-language model's folder with its config.json, got {folder.name!r}, which has none: "
                "download the model there, as its page on the hub has it."
            )
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            processor = AutoProcessor.from_pretrained(folder, **local)
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", use_safetensors=True, **local)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"The folder {folder.name!r} is no vision-language model that transformers reads ({reason[:200]}): "
                "expected one of the kinds of Qwen2.5-VL, Qwen3-VL or LLaVA-OneVision with its processor; download it "
                "again."
            ) from error
        if not hasattr(processor, "image_processor"):
            raise ValueError(f"The model in {folder.name!r} reads no pictures: expected one that does.")
        return cls(model.to(device), processor, name=folder.name)

    @cached_property
    def image_token(self) -> int:
        """The token that stands for a piece of a picture."""
        return int(self.processor.image_token_id)

    def inputs(self, parts: Sequence[Part]) -> Any:
        """What the model takes for one turn of a user, who shows pictures and says texts in the order of `parts`."""
        images = [part for part in parts if not isinstance(part, str)]
        found = self.processor(text=[self.text(parts)], images=[images], return_tensors="pt")
        return found.to(self.model.device, dtype=self.model.dtype)

    def text(self, parts: Sequence[Part]) -> str:
        """The turn as text in the model's own template, or as it stands where it has none."""
        if self.processor.chat_template is None:
            return "".join(part if isinstance(part, str) else self.processor.image_token for part in parts)
        content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]
        turn = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)

    def text_tokens_after_pictures(self, ids: Tensor) -> Tensor:
        """Which of the tokens ids [T] are text that follows the last picture, special tokens left out; bool [T]."""
        special = torch.tensor(self.processor.tokenizer.all_special_ids, device=ids.device)
        last = int((ids == self.image_token).nonzero().max())
        after = torch.arange(len(ids), device=ids.device) > last
        return after & ~torch.isin(ids, special)

    @torch.no_grad()
    def odds(self, parts: Sequence[Part], first: str, second: str) -> float:
        """log P(first) - log P(second) of two letters as the next token after a turn."""
        tokenizer = self.processor.tokenizer
        a, b = different_tokens(
            self.name, *(tokenizer.encode(one, add_special_tokens=False)[-1] for one in (first, second))
        )
        logits = self.model(**self.inputs(parts), use_cache=False).logits[0, -1].float()
        return float(logits[a] - logits[b])

    @torch.no_grad()
    def states(self, inputs: Mapping[str, Tensor], layer: int) -> Tensor:
        """States [T, d] that `layer` (1 the first) gives at each token; the layers above it are not run."""
        with self.watching(layer, stop=True) as seen:
            try:
                self.model(**inputs, use_cache=False)
            except _SeenEnoughError:
                pass
        return seen[0][0]

    @contextmanager
    def watching(self, layer: int, *, stop: bool = False) -> Iterator[list[Tensor]]:
        """Collects the states [1, T, d] that `layer` gives at each forward pass, or ends the first one there."""
        seen: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen.append(output[0] if isinstance(output, tuple) else output)
            if stop:
                raise _SeenEnoughError

        handle = self.layers[self.checked(layer) - 1].register_forward_hook(keep)
        try:
            yield seen
        finally:
            handle.remove()

    def checked(self, layer: int) -> int:
        """The layer, if the model has it."""
        if not 1 <= layer <= len(self.layers):
            raise ValueError(f"{self.name} has layers 1 to {len(self.layers)}, got layer {layer}: choose one of them.")
        return layer

    @property
    def middle(self) -> int:
        """The layer to read where none is named."""
        return max(1, len(self.layers) // 2)

    @cached_property
    def fingerprint(self) -> str:
        """What tells models and how their processors see pictures apart."""
        pictures = self.processor.image_processor
        sees = {name: _plain(getattr(pictures, name, None)) for name in ("size", "image_mean", "image_std")}
        return hash_with(sees, fingerprint(self.model))


class TransformersVLMTower:
    """A picture as the mean of a middle layer's states at the text after it (`instruction`); features [n, d]."""

    batch = 1
    pooling = POOLING

    def __init__(
        self, vlm: LocalVLM, *, layer: int | None = None, instruction: str = INSTRUCTION, pixels: int = PIXELS
    ) -> None:
        if not instruction.strip():
            raise ValueError("A vision-language model is read at the words after the picture, got none: say some.")
        self.vlm, self.instruction, self.pixels = vlm, instruction, pixels
        self.layer = vlm.middle if layer is None else vlm.checked(layer)
        self.name = vlm.name

    @cached_property
    def weight_hash(self) -> str:
        """sha256 that tells models (fingerprint.py), layers, instructions, templates and picture sizes apart."""
        turn = self.vlm.text([Image.new("RGB", (28, 28)), self.instruction])
        settings = {"layer": self.layer, "turn": turn, "pixels": self.pixels, "pooling": self.pooling}
        return hash_with(settings, self.vlm.fingerprint)

    @property
    def dim(self) -> int:
        """d, the width of the model's states."""
        return int(self.vlm.model.config.get_text_config().hidden_size)

    def prepare(self, picture: Image.Image) -> Tensor:
        """One picture in bytes [3, h, w], of no more than `pixels`."""
        return to_bytes(within(picture, self.pixels))

    def features(self, prepared: Sequence[Tensor]) -> Tensor:
        """Features [n, d], float32 on the CPU, each picture read alone."""
        rows = [self._row(to_image(picture)) for picture in prepared]
        return torch.stack(rows) if rows else torch.empty(0, self.dim)

    def _row(self, image: Image.Image) -> Tensor:
        inputs = self.vlm.inputs([image, self.instruction])
        states = self.vlm.states(inputs, self.layer).float()
        row = states[self.vlm.text_tokens_after_pictures(inputs["input_ids"][0])].mean(0).cpu()
        if not torch.isfinite(row).all():
            raise ValueError(
                f"The states of {self.name} are not finite in {str(self.vlm.model.dtype).removeprefix('torch.')}: its "
                "numbers grow beyond that type; keep the model in bfloat16."
            )
        return row


def different_tokens(name: str, first: int, second: int) -> tuple[int, int]:
    """The tokens of two letters, if a model has one for each."""
    if first == second:
        raise ValueError(f"{name} has no tokens for the letters A and B: choose another model.")
    return first, second


class _SeenEnoughError(Exception):
    """Ends a forward pass whose rest nobody needs."""


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [float(number) for number in value]
    return {key: number for key, number in dict(value).items() if number is not None} if value is not None else None
