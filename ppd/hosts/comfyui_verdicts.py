"""A text encoder with eyes that ComfyUI has loaded, asked which of two letters comes next (`judges.Reader`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.sd
import comfy.text_encoders.llama
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..encoders.towers.pixels import to_bytes
from ..encoders.towers.vlm import different_tokens

if TYPE_CHECKING:
    from ..encoders.towers.vlm import Part

QWEN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", "<|vision_start|><|image_pad|><|vision_end|>"
GEMMA = "<|turn>user\n{}<turn|>\n<|turn>model\n", "<|image><|image|><image|>"
"""A user's turn, and what stands for a picture in it."""


class TextEncoderReader:
    """Reads turns of texts and pictures as ComfyUI's own *Generate Text* does, one token far.

    ComfyUI loads Qwen2.5-VL without its output head, and takes the token embeddings for it, which are not tied in that
    model: it is refused.
    """

    def __init__(self, clip: comfy.sd.CLIP, *, name: str = "The text encoder") -> None:
        self.clip, self.name = clip, name
        self.is_gemma = hasattr(clip.tokenizer, "gemma4")
        self.key, _ = self._tokens(["", Image.new("RGB", (56, 56)), Image.new("RGB", (56, 56))])
        self.reader: Any = getattr(clip.cond_stage_model, self.key)
        if isinstance(self.reader.transformer, comfy.text_encoders.llama.Qwen25_7BVLI):
            raise ValueError(
                f"{name} is a Qwen2.5-VL, which ComfyUI loads without the layer that says words: expected a Qwen3-VL, "
                "Qwen3.5 or Gemma 4."
            )

    def odds(self, parts: Sequence[Part], first: str, second: str) -> float:
        """log P(first) - log P(second) of two letters as the next token after a turn."""
        words = getattr(self.clip.tokenizer, self.key).tokenizer
        a, b = different_tokens(self.name, *(words(letter)["input_ids"][-1] for letter in (first, second)))
        logits = self.logits(parts)
        return float(logits[a] - logits[b])

    @torch.no_grad()
    def logits(self, parts: Sequence[Part]) -> Tensor:
        """Of the next token after a turn, [vocabulary] on the CPU."""
        _, tokens = self._tokens(parts)
        self.clip.load_model({self.key: [[(token, 1.0) for token in tokens]]})
        device, model = self.clip.patcher.load_device, self.clip.cond_stage_model
        model.reset_clip_options()
        model.set_clip_options({"execution_device": device})
        self.reader.layer = "last"  # a model family may read several layers at once
        try:
            with comfy.model_management.cuda_device_context(device):
                return self.reader.transformer.logits(self.reader([tokens])[0])[0, -1].float().cpu()
        finally:
            model.reset_clip_options()

    def _tokens(self, parts: Sequence[Part]) -> tuple[str, list[Any]]:
        """The part of the model that sees, by name, and what it is given: tokens, and pictures in place of some."""
        turn, mark = GEMMA if self.is_gemma else QWEN
        text = "".join(part if isinstance(part, str) else mark for part in parts)
        pictures = [part for part in parts if not isinstance(part, str)]
        if self.is_gemma:  # takes pictures of one size only
            side = max(max(one.size) for one in pictures)
            pictures = [ImageOps.pad(one, (side, side)) for one in pictures]
        images = [to_bytes(one).movedim(0, -1)[None].float() / 255 for one in pictures]
        if self.is_gemma:
            found = self.clip.tokenize(turn.format(text), image=torch.cat(images))
        else:
            found = self.clip.tokenize(text, images=images, llama_template=turn, thinking=False)
        for key, (tokens, *_) in found.items():
            said = [token[0] for token in tokens]
            seen = sum(isinstance(token, dict) for token in said)
            if seen == len(pictures) and hasattr(self.clip.cond_stage_model, key):
                return key, said
        raise ValueError(
            f"{self.name} reads no pictures, or one at a time: expected one that reads several, such as a Qwen3-VL, "
            "Qwen3.5 or Gemma 4."
        )
