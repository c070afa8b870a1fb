"""Stage 4: sampling for a person."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import comfy.sd
import nodes
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui

from ..ppd.branch import Outcome, Scope
from ..ppd.hosts.comfyui_run import count_report
from ..ppd.user_embedding import UserEmbedding as Embedding
from . import run_notes, whose
from .adapter import apply, scope_inputs, strength_input
from .sockets import CATEGORY, UserAdapter, UserEmbedding, people_of
from .words import apply_words, words_strength_input

STEPS, SAMPLER, SCHEDULER = 20, comfy.samplers.KSampler.SAMPLERS[0], comfy.samplers.KSampler.SCHEDULERS[0]


def sampler_inputs(cfg: float, cfg_tooltip: str) -> list[io.Input]:
    """Steps, cfg, sampler and scheduler as the stock KSampler has them, the same in every node that samples.

    All are optional: the frontend shows required widgets before optional ones, and saved values are positional.
    """
    return [
        io.Int.Input(
            "steps",
            default=STEPS,
            optional=True,
            min=1,
            max=10000,
            tooltip="The number of steps used in the denoising process.",
        ),
        io.Float.Input(
            "cfg", default=cfg, optional=True, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=cfg_tooltip
        ),
        io.Combo.Input(
            "sampler_name",
            options=comfy.samplers.KSampler.SAMPLERS,
            default=SAMPLER,
            optional=True,
            tooltip="The algorithm used when sampling.",
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default=SCHEDULER,
            optional=True,
            tooltip="How noise is gradually removed to form the image.",
        ),
    ]


class PersonalizedDenoiser(io.ComfyNode):
    """ComfyUI's KSampler with a person. Its inputs come first and in its order: saved widget values are positional."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PersonalizedDenoiser",
            display_name="Personalized Denoiser",
            category=CATEGORY,
            description="A KSampler conditioned on a user embedding: it paints in that taste. With nothing of ours "
            "connected it is the KSampler.",
            search_aliases=["ksampler", "sampler", "personalize", "preference", "taste", "denoise", "txt2img"],
            inputs=[
                io.Model.Input("model", tooltip="The model used for denoising the input latent."),
                io.Int.Input(
                    "seed",
                    default=0,
                    optional=True,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The random seed used for creating the noise.",
                ),
                *sampler_inputs(
                    8.0, "The classifier-free guidance scale. The effective push of a taste is strength x cfg."
                ),
                io.Conditioning.Input("positive", tooltip="What to include in the image."),
                io.Conditioning.Input("negative", tooltip="What to exclude from the image."),
                io.Latent.Input("latent_image", tooltip="The latent image to denoise."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    optional=True,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The amount of denoising; lower values keep the structure of the input image.",
                ),
                UserAdapter.Input("user_adapter", optional=True, tooltip="The adapter for this family of models."),
                UserEmbedding.Input(
                    "user_embedding",
                    optional=True,
                    tooltip="Whose taste, or a batch of user embeddings: number i for latent i, the last one for the "
                    "rest.",
                ),
                strength_input(),
                *scope_inputs(),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The CLIP of the prompts: where connected, the prompt leans to what the person likes, with "
                    "an adapter or without one.",
                ),
                words_strength_input("words_strength"),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The denoised latent."),
                io.String.Output(display_name="report", tooltip="What was active in this run, and what came of it."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        seed: int = 0,
        steps: int = STEPS,
        cfg: float = 8.0,
        sampler_name: str = SAMPLER,
        scheduler: str = SCHEDULER,
        denoise: float = 1.0,
        strength: float = 1.0,
        user_adapter: ModelPatcher | None = None,
        user_embedding: Embedding | tuple[Embedding, ...] | None = None,
        layers: str = "default",
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        clip: comfy.sd.CLIP | None = None,
        words_strength: float = 1.0,
    ) -> io.NodeOutput:
        config = model.model.model_config
        notes = []
        if hasattr(type(config), "notes_on_run"):  # of the class: ComfyUI's configurations warn of what they lack
            notes = config.notes_on_run(latent_image["samples"], positive, negative)
            run_notes.leave(notes)
        scope = Scope(layers, start_percent, end_percent)
        people, latents = people_of(user_embedding), latent_image["samples"].shape[0]
        applied: list[tuple[str, list[Outcome]]] = []
        if clip is not None and people:
            tastes, happened = [*map(whose.of_embedding, people)], list[Outcome]()
            model, words = apply_words(model, clip, tastes, words_strength, scope, happened.append)
            applied.append((words, happened))
        if user_adapter is not None or clip is None or not people:
            happened = []
            model, report = apply(model, user_adapter, user_embedding, strength, scope, cfg, happened.append)
            applied.append((report, happened))
        (latent,) = nodes.common_ksampler(
            model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=denoise
        )
        lines = _after_run(applied, notes)
        if user_adapter is not None and len(people) not in (0, 1, latents):
            lines.append(count_report(len(people), latents))
        report, node = "\n".join(lines), cls.hidden.unique_id if cls.hidden else None
        return io.NodeOutput(latent, report, ui=ui.PreviewText(report) if run_notes.is_new(node, report) else None)


def _after_run(applied: list[tuple[str, list[Outcome]]], notes: list[str]) -> list[str]:
    """Lines of what was active in a run: what nothing came of is told first, in place of what it would have been."""
    lines = [*notes]
    for report, outcomes in applied:
        for outcome in outcomes:
            run_notes.follow(None)(outcome)
        if any(outcome.personal_calls for outcome in outcomes) or not outcomes:
            lines += [report, *(outcome.told() for outcome in outcomes)]
        else:
            lines[:0] = [outcome.told() for outcome in outcomes]
    happened = [outcome for _, outcomes in applied for outcome in outcomes]
    if happened and not any(outcome.personal_calls for outcome in happened):
        lines[0] = f"This is the plain picture. {lines[0]}"
    return lines
