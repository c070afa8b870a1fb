"""Stage 3: user adapters, and putting one into a MODEL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import folder_paths
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui

from ..ppd.branch import Outcome, Scope, describe
from ..ppd.families import PARTS
from ..ppd.files import file_digest
from ..ppd.hosts.comfyui import apply_user, load_adapter
from ..ppd.store import DEFAULT_ENCODER
from ..ppd.user_embedding import UserEmbedding as Embedding
from . import folders, run_notes
from .sockets import CATEGORY, UserAdapter, UserEmbedding, people_of


def adapters() -> list[str]:
    """Names of all user adapters: that for new people, the other shipped ones, and files of models/user_adapters."""
    found = {folders.POCKET, *(path.stem for path in (folders.WEIGHTS / "adapters").glob("*.safetensors"))}
    shipped = sorted(found, key=lambda name: (name != DEFAULT_ENCODER, name))
    return [*shipped, *folder_paths.get_filename_list("user_adapters")]


def adapter_file(name: str) -> Path:
    """The file behind a name in the list of adapters; the pack's are told from the user's by lacking the extension."""
    if name.endswith(".safetensors"):
        return folders.model_file("user_adapters", name)
    return folders.shipped_file(f"adapters/{name}.safetensors")


def strength_input() -> io.Float.Input:
    """The strength of the user branch, the same in every node that has it."""
    return io.Float.Input(
        "strength",
        default=1.0,
        optional=True,
        min=0.0,
        max=3.0,
        step=0.05,
        tooltip="Scale of the user branch: how far the picture goes towards this taste. 0 is exactly the model "
        "itself, 1 as tuned; the effective push is strength x cfg. IP-Adapters are clamped to 2.",
    )


def scope_inputs() -> list[io.Input]:
    """Where the user branch acts, the same in every node that has it."""
    return [
        layers_input(),
        percent_input("start_percent", 0.0, "begins to act; never before the adapter's own."),
        percent_input("end_percent", 1.0, "stops acting; never after the adapter's own."),
    ]


def layers_input() -> io.Combo.Input:
    """The part of the layers (families.PARTS), the same in every node that has it."""
    return io.Combo.Input(
        "layers",
        options=list(PARTS),
        default=PARTS[0],
        optional=True,
        advanced=True,
        tooltip="Layers of the model that the user branch acts in: the adapter's own choice, all, those that carry "
        "style (colour, material, mood), or those that carry layout. A choice exists for SD1.5, SD2 and SDXL.",
    )


def percent_input(name: str, default: float, what: str) -> io.Float.Input:
    """An end of the part of the noise schedule that something acts in."""
    tooltip = f"Window in the noise schedule: where the taste {what}"
    return io.Float.Input(
        name, default=default, min=0.0, max=1.0, step=0.01, optional=True, advanced=True, tooltip=tooltip
    )


def apply(
    model: ModelPatcher,
    adapter: ModelPatcher | None,
    embedding: Embedding | tuple[Embedding, ...] | None,
    strength: float,
    scope: Scope,
    cfg: float | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> tuple[ModelPatcher, str]:
    """The personal model and what is active in it; the model itself where a node is bypassed or an input left open."""
    people = people_of(embedding)
    if adapter is None and not people:
        return model, "Personalization is off: nothing is connected."
    if adapter is None:
        return model, "Personalization is off: a user embedding is connected, but no user adapter."
    if not people:
        return model, "Personalization is off: a user adapter is connected, but no user embedding."
    personal = apply_user(model, adapter, people, strength, scope, on_outcome)
    return personal, describe(adapter.model, people, strength, cfg, scope)


class PPD_UserAdapterLoader(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_UserAdapterLoader",
            display_name="Load User Adapter",
            category=CATEGORY,
            description="Loads a user adapter, which lets a diffusion model read user embeddings. One serves "
            "everybody.",
            search_aliases=["preference adapter", "taste adapter"],
            inputs=[
                io.Combo.Input(
                    "user_adapter",
                    options=adapters(),
                    tooltip="The pack's adapters for its pocket models, or a file of models/user_adapters. Each fits "
                    "one family of models. For IP-Adapters there is Load IP-Adapter for Taste.",
                )
            ],
            outputs=[UserAdapter.Output(display_name="user_adapter", tooltip="The adapter.")],
        )

    @classmethod
    def fingerprint_inputs(cls, user_adapter: str) -> str:
        return file_digest(adapter_file(user_adapter))

    @classmethod
    def execute(cls, user_adapter: str) -> io.NodeOutput:
        return io.NodeOutput(load_adapter(adapter_file(user_adapter)))


class PPD_ApplyUserEmbedding(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_ApplyUserEmbedding",
            display_name="Apply User Embedding",
            category=CATEGORY,
            description="Conditions a MODEL on a user embedding, so that any sampler paints in that taste. Two in a "
            "row act together.",
            search_aliases=["personalize model", "ipadapter", "preference", "taste"],
            inputs=[
                io.Model.Input("model", tooltip="The model to make personal. It is not changed."),
                UserAdapter.Input("user_adapter", optional=True, tooltip="The adapter for this family of models."),
                UserEmbedding.Input(
                    "user_embedding",
                    optional=True,
                    tooltip="Whose taste, or a batch of user embeddings: number i for latent i, the last one for the "
                    "rest.",
                ),
                strength_input(),
                *scope_inputs(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The personal model."),
                io.String.Output(display_name="report", tooltip="What is active in this model."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        strength: float = 1.0,
        user_adapter: ModelPatcher | None = None,
        user_embedding: Embedding | tuple[Embedding, ...] | None = None,
        layers: str = "default",
        start_percent: float = 0.0,
        end_percent: float = 1.0,
    ) -> io.NodeOutput:
        scope = Scope(layers, start_percent, end_percent)
        told = run_notes.follow(cls.hidden.unique_id if cls.hidden else None)
        personal, report = apply(model, user_adapter, user_embedding, strength, scope, on_outcome=told)
        return io.NodeOutput(personal, report, ui=ui.PreviewText(report))
