"""A taste as an ordinary LoRA file, for loaders and programs that know nothing of tastes."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui

from ..ppd.families import title_of
from ..ppd.hosts.comfyui_denoisers import check_model, quantisation_of
from ..ppd.lora import DTYPES, differences, lora_of, quantised_sentence, write_lora
from ..ppd.user_embedding import UserEmbedding as Embedding
from . import whose
from .adapter import layers_input, strength_input
from .sockets import CATEGORY, UserAdapter, UserEmbedding, one_person


class PPD_SaveTasteAsLoRA(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_SaveTasteAsLoRA",
            display_name="Save My Taste as LoRA",
            category=CATEGORY,
            description="Saves somebody's taste as an ordinary LoRA in models/loras, for any LoRA loader. Person and "
            "strength are fixed in it; no name, picture, prompt or path is.",
            search_aliases=["lora", "export", "taste", "style", "share", "user embedding"],
            inputs=[
                UserAdapter.Input("user_adapter", tooltip="The adapter for the model that the LoRA is for."),
                UserEmbedding.Input(
                    "user_embedding", optional=True, tooltip="Where connected, this taste instead of the person's."
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that the LoRA is for: then it is checked, and the report says how to load the "
                    "LoRA where the model is quantised.",
                ),
                whose.person_input("Whose taste, as answered in the tab Taste, or a taste file."),
                strength_input(),
                layers_input(),
                io.String.Input(
                    "filename_prefix", default="my_taste", optional=True, tooltip="The file's name; folders with /."
                ),
                io.Combo.Input(
                    "precision",
                    options=list(DTYPES),
                    default="float16",
                    optional=True,
                    advanced=True,
                    tooltip="Number format of the file. Every loader reads both; float16 is the finer.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="lora_name", tooltip="The file, as LoRA loaders list it."),
                io.String.Output(display_name="report", tooltip="What was saved, and what the LoRA does otherwise."),
            ],
            hidden=[io.Hidden.prompt],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, person: str | None = whose.people.TAB) -> bool | str:
        return whose.check(person)

    @classmethod
    def fingerprint_inputs(cls, person: str | None = whose.people.TAB, **constants: object) -> str:
        return whose.fingerprint(person)

    @classmethod
    def execute(
        cls,
        user_adapter: ModelPatcher,
        user_embedding: Embedding | tuple[Embedding, ...] | None = None,
        model: ModelPatcher | None = None,
        person: str = whose.people.TAB,
        strength: float = 1.0,
        layers: str = "default",
        filename_prefix: str = "my_taste",
        precision: str = "float16",
    ) -> io.NodeOutput:
        adapter = user_adapter.model
        if model is not None:
            check_model(model, adapter.config)
        if user_embedding is None:
            taste = whose.read(person, cls.hidden.prompt if cls.hidden else None)
        else:
            taste = whose.of_embedding(one_person(user_embedding, "save as a LoRA"))
        tensors = lora_of(adapter, taste.embedding, strength, layers)
        root = folder_paths.get_folder_paths("loras")[0]
        folder, name, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, root)
        path = Path(folder) / f"{name}_{counter:05}_.safetensors"
        write_lora(path, tensors, adapter.config.family, DTYPES[precision])
        saved = str(path.relative_to(root))
        lines = [
            f"Saved {saved} in models/loras: {taste.told}, at strength {strength:g}.{taste.advice}",
            f"For {title_of(adapter.config.family)}, {len(tensors) // 2} layers. Press R to see it in LoRA loaders.",
            *differences(adapter),
            *taste.notes,
        ]
        if model is not None and (few_bits := quantisation_of(model)):
            lines.insert(2, quantised_sentence(few_bits))
        report = "\n".join(lines)
        return io.NodeOutput(saved, report, ui=ui.PreviewText(report))
