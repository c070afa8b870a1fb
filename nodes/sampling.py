"""Stage 4: sampling for a person."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import nodes
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui

from ..ppd.branch import Scope, describe
from ..ppd.hosts.comfyui import apply_user, count_report
from ..ppd.hosts.comfyui_pocket import UNKNOWN_WORDS, Pocket
from ..ppd.user_embedding import UserEmbedding as Embedding
from .adapter import scope_inputs, strength_input
from .sockets import CATEGORY, UserAdapter, UserEmbedding, people_of

LARGEST = 192
"""Pixels a side beyond which the pocket model's pictures fall apart."""


class PersonalizedDenoiser(io.ComfyNode):
    """ComfyUI's KSampler with a person. Its inputs come first and in its order: saved widget values are positional."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PersonalizedDenoiser",
            display_name="Personalized Denoiser",
            category=CATEGORY,
            description="A KSampler that paints for a person. With nothing of ours connected it is the KSampler.",
            search_aliases=["ksampler", "sampler", "personalize", "preference", "taste", "denoise", "txt2img"],
            inputs=[
                io.Model.Input("model", tooltip="The model used for denoising the input latent."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The random seed used for creating the noise.",
                ),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=1,
                    max=10000,
                    tooltip="The number of steps used in the denoising process.",
                ),
                io.Float.Input(
                    "cfg",
                    default=8.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="The classifier-free guidance scale. The person's effect grows with it.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    tooltip="The algorithm used when sampling.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    tooltip="How noise is gradually removed to form the image.",
                ),
                io.Conditioning.Input("positive", tooltip="What to include in the image."),
                io.Conditioning.Input("negative", tooltip="What to exclude from the image."),
                io.Latent.Input("latent_image", tooltip="The latent image to denoise."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The amount of denoising; lower values keep the structure of the input image.",
                ),
                UserAdapter.Input("user_adapter", optional=True, tooltip="The adapter for this family of models."),
                UserEmbedding.Input(
                    "user_embedding",
                    optional=True,
                    tooltip="The person, or a batch of people: person i for latent i, the last one for the rest.",
                ),
                strength_input(),
                *scope_inputs(),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The denoised latent."),
                io.String.Output(display_name="report", tooltip="What was active in this run."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        denoise: float,
        strength: float,
        user_adapter: ModelPatcher | None = None,
        user_embedding: Embedding | tuple[Embedding, ...] | None = None,
        layers: str = "default",
        start_percent: float = 0.0,
        end_percent: float = 1.0,
    ) -> io.NodeOutput:
        if (user_adapter is None) != (user_embedding is None):
            have, lack = ("adapter", "embedding") if user_embedding is None else ("embedding", "adapter")
            raise ValueError(f"A user {have} is connected, but no user {lack}: connect both, or neither.")
        lines = ["Personalization is off: nothing is connected."]
        if user_adapter is not None and user_embedding is not None:
            people, scope = people_of(user_embedding), Scope(layers, start_percent, end_percent)
            model = apply_user(model, user_adapter, people, strength, scope)
            lines = [describe(user_adapter.model, people, strength, cfg, scope)]
            latents = latent_image["samples"].shape[0]
            if len(people) not in (1, latents):
                lines.append(count_report(len(people), latents))
        side = 8 * max(latent_image["samples"].shape[-2:])
        if isinstance(model.model.model_config, Pocket) and side > LARGEST:
            lines.append(f"The pocket model has seen 128 x 128 pixels only and cannot compose {side}: use 128.")
        lines += [
            f"The model does not know these words of the {side} prompt: {', '.join(words)}."
            for side, words in (("positive", unknown_words(positive)), ("negative", unknown_words(negative)))
            if words
        ]
        (latent,) = nodes.common_ksampler(
            model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=denoise
        )
        report = "\n".join(lines)
        return io.NodeOutput(latent, report, ui=ui.PreviewText(report))


def unknown_words(conditioning: Any) -> list[str]:
    """Words that the pocket model's text encoder was never taught, each once; empty for other models."""
    return list(dict.fromkeys(word for _, options in conditioning for word in options.get(UNKNOWN_WORDS, [])))
