"""Text taste in ComfyUI: a direction on the prompt's tokens, for every sampler, guider and denoiser that reads tokens.

As with the user branch (comfyui.py), a MODEL carries a frozen `TextTaste` as a SAMPLER_SAMPLE wrapper, and each run
hangs a `TextRun` into its own copy of the model options: nothing is written into the MODEL or its CONDITIONING. Tokens
are moved where the lists of conditions are evaluated, since then each denoiser's own preparation is done (padding, a
text adapter), it is known which lists are unconditional, and masks, areas and other packs' conditions are what they
were. Each tensor is moved once a run, so that no step costs more.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..families.text import TEXTS, TextFamily
from ..text_taste import shifted, token_mean
from .comfyui_run import Unconditional, Window

log = logging.getLogger(__name__)

KEY = "ppd_text"
Conditioning: TypeAlias = list[list[Any]]
Rule: TypeAlias = Literal["none", "opposite"]
RULE: Rule = "none"
"""What unconditional lists get: nothing, or the opposite direction."""


def text_family(model: ModelPatcher) -> TextFamily:
    """The family of a MODEL; ValueError for those that read no sequence of tokens."""
    names = [kind.__name__ for kind in type(model.model.diffusion_model).__mro__]
    found = next((TEXTS[name] for name in names if name in TEXTS), None)
    if found is None:
        raise ValueError(
            f"{type(model.model.model_config).__name__} reads its prompt in a way that no direction can be put on: put "
            "the words that Taste to Text gives into the prompt."
        )
    return found


def token_means(model: ModelPatcher, conditioning: Conditioning) -> dict[str, Tensor]:
    """The `token_mean` of a prompt's CONDITIONING as the denoiser is given it, by the keys of its family."""
    family, base = text_family(model), model.model
    device = torch.device("cpu")
    if family.adapts:  # with weights of its own
        comfy.model_management.load_models_gpu([model])
        device = model.load_device
    form = base.latent_format
    noise = torch.zeros(1, form.latent_channels, *[1] * (form.latent_dimensions - 2), 8, 8, device=device)
    given = comfy.sampler_helpers.convert_cond(conditioning[:1])
    (cond,) = comfy.samplers.encode_model_conds(base.extra_conds, given, noise, device, "positive", latent_image=noise)
    held = cond["model_conds"]
    missing = [key for key in family.keys if key not in held]
    if missing:
        raise ValueError(
            f"The CLIP gives no {', '.join(missing)}, which {type(base.model_config).__name__} reads: connect the CLIP "
            "that belongs to the MODEL."
        )
    return {key: token_mean(held[key].cond, _real_tokens(cond, held[key].cond)).cpu() for key in family.keys}


def _real_tokens(cond: Mapping[str, Any], tokens: Tensor) -> Tensor | None:
    """Which tokens are the prompt's, [B, L], where that is known: a mask for other tokens than these says nothing."""
    mask = cond.get("attention_mask")
    if not torch.is_tensor(mask) or mask.ndim != 2 or mask.shape[-1] != tokens.shape[-2]:
        return None
    return mask


@dataclass(frozen=True, eq=False)
class TextTaste:
    """People's directions for a MODEL's tokens: by the family's key [people, ..., D], person i for latent i of a batch,
    the last one for the rest; at `strength`, within `window` in percent of the schedule."""

    directions: Mapping[str, Tensor]
    strength: float = 1.0
    window: tuple[float, float] = (0.0, 1.0)
    unconditional: Rule = RULE

    @property
    def is_off(self) -> bool:
        """Whether it changes nothing."""
        nobody = not any(bool(direction.any()) for direction in self.directions.values())
        return nobody or self.strength == 0 or self.window[0] >= self.window[1]

    def sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """SAMPLER_SAMPLE wrapper: hang a new TextRun into this run's own model options."""
        run = TextRun(self, args[0])
        options = args[2]["model_options"]["transformer_options"]
        add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, run.evaluate, options)
        result = executor(*args, **kwargs)
        run.finish()
        return result


def apply_text(model: ModelPatcher, taste: TextTaste) -> ModelPatcher:
    """A clone of `model` whose prompts are moved; where the taste is off, the clone is the model itself. Two add up."""
    text_family(model)
    personal = model.clone()
    if not taste.is_off:
        personal.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, taste.sample)
    return personal


class TextRun:
    """One sampling run of a TextTaste."""

    def __init__(self, taste: TextTaste, guider: Any) -> None:
        self.taste, self.model = taste, guider.model_patcher.model
        self.unconditional, self.window = Unconditional(guider), Window(self.model, taste.window)
        self.moved: dict[tuple[str, bool, int], WeakTensorKeyDictionary] = {}
        self.evaluations = self.active = 0

    def evaluate(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """CALC_COND_BATCH wrapper: the lists of conditions with their tokens moved, within the window."""
        model, lists, x, sigma = args[:4]
        self.evaluations += 1
        # A guider may call another model for its unconditional list
        if model is not self.model or not any(self.window.inside(sigma)):
            return executor(*args, **kwargs)
        self.active += 1
        return executor(model, [self._list(index, conds, len(x)) for index, conds in enumerate(lists)], *args[2:])

    def _list(self, index: int, conds: Sequence[dict[str, Any]] | None, rows: int) -> list[dict[str, Any]] | None:
        if not conds:
            return conds  # type: ignore[return-value]
        opposite = self.unconditional.has(index, conds)
        if opposite and self.taste.unconditional == "none":
            return list(conds)
        return [self._condition(cond, opposite, rows) for cond in conds]

    def _condition(self, cond: dict[str, Any], opposite: bool, rows: int) -> dict[str, Any]:
        held = cond["model_conds"]
        moved = {
            key: held[key]._copy_with(self._moved(key, held[key].cond, opposite, rows, cond))
            for key in self.taste.directions
            if key in held
        }
        return {**cond, "model_conds": {**held, **moved}}

    def _moved(self, key: str, tokens: Tensor, opposite: bool, rows: int, cond: Mapping[str, Any]) -> Tensor:
        """Once a run for each tensor."""
        known = self.moved.setdefault((key, opposite, rows), WeakTensorKeyDictionary())
        if tokens not in known:
            direction = self.taste.directions[key].to(tokens.device)
            if direction.shape[-1] != tokens.shape[-1]:
                raise ValueError(
                    f"The prompt's tokens have {tokens.shape[-1]} values and those of the taste {direction.shape[-1]}: "
                    "give the words the same CLIP that the prompt is encoded with."
                )
            if len(direction) > 1:
                direction = direction[[min(latent, len(direction) - 1) for latent in range(rows)]]
            strength = -self.taste.strength if opposite else self.taste.strength
            known[tokens] = shifted(tokens, direction, strength, _real_tokens(cond, tokens))
        return known[tokens]

    def finish(self) -> None:
        """After the run: say what was active, and never let a prompt that was not reached pass as personal."""
        log.info("Moved the prompt's tokens in %d of %d model evaluations.", self.active, self.evaluations)
        if self.active and not any(len(known) for known in self.moved.values()):
            raise RuntimeError(
                "No tokens of the prompt were reached, so the picture is not personal: the MODEL is given no text. "
                "Put the words that Taste to Text gives into the prompt, or remove Apply Taste to Conditioning."
            )
        if not self.active:
            log.warning("The words changed nothing: no step of this run lies between start_percent and end_percent.")
