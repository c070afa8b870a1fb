"""The template *train your own adapter* as the API has it: a family's own loaders, a small size, press by press."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from tests.server.conftest import Prompt, Server, nodes_of, set_inputs, to_prompt

from .random_models import FILE, LOOKS, TEXT_TYPES

TEMPLATE = "train your own adapter"
BY_TEMPLATE = "by the template"
STUDIES, ENCODER = "studies", "encoder"
SIZE = 64
SAMPLING = {"steps": 2, "cfg": 1.0, "sampler_name": "euler"}
PROMPT, SEED = "a lighthouse by a lake", 7
OURS = ("user_adapter", "user_embedding", "strength", "layers", "start_percent", "end_percent", "words_strength")
"""Inputs of the Personalized Denoiser that the KSampler has not."""


class Template:
    """The template's graph for a family, with its own files, sizes and names; each part is what one press of Run is."""

    def __init__(self, server: Server, family: str, settings: dict[str, int]) -> None:
        workflow = server.workflow(TEMPLATE)
        for node in workflow["nodes"]:
            node["mode"] = 0  # the group that waits for the adapter is on
        prompt = to_prompt(workflow, server.object_info)
        choice: dict[str, Any] = {"checkpoint": FILE}
        if family in TEXT_TYPES:
            use_parts(prompt, TEXT_TYPES[family])
            choice = {"checkpoint": f"diffusion model: {FILE}", "text_encoder": FILE, "vae": FILE}
            choice |= {"text_encoder_type": TEXT_TYPES[family]}
        else:
            prompt = set_inputs(prompt, "CheckpointLoaderSimple", ckpt_name=FILE)
        sampling = {**SAMPLING, "scheduler": "simple" if family in TEXT_TYPES else "normal"}
        prompt = set_inputs(
            prompt,
            "PPD_PaintStudies",
            studies=STUDIES,
            width=SIZE,
            height=SIZE,
            looks=LOOKS,
            negative="",
            **sampling,
        )
        prompt = set_inputs(prompt, "PPD_MakeTasteEncoder", name=ENCODER)
        prompt = set_inputs(prompt, "PPD_TrainUserAdapter", name=BY_TEMPLATE, **choice, **settings)
        prompt = set_inputs(prompt, "UserEmbeddingEncoder", encoder=ENCODER)
        prompt = set_inputs(prompt, "EmptyLatentImage", width=SIZE, height=SIZE)
        prompt = set_inputs(prompt, "PersonalizedDenoiser", seed=SEED, **sampling)
        self.prompt = prompt

    def studies(self, prompts: list[str]) -> Prompt:
        """Painting studies of these prompts, each in every look."""
        count = len(prompts) * len(LOOKS.split(","))
        painted = set_inputs(self.prompt, "PPD_PaintStudies", prompts="\n".join(prompts), count=count)
        return upstream(painted, "PPD_PaintStudies")

    def encoder(self, prompts: list[str]) -> Prompt:
        """Making the taste encoder of them."""
        return upstream(self.prompt | self.studies(prompts), "PPD_MakeTasteEncoder")

    def training(self) -> Prompt:
        """Training alone, with what was made before chosen by name."""
        (node,) = nodes_of(self.prompt, "PPD_TrainUserAdapter")
        alone = deepcopy(self.prompt[node])
        alone["inputs"] = {name: x for name, x in alone["inputs"].items() if not isinstance(x, list)}
        alone["inputs"] |= {"studies": STUDIES, "taste_encoder": ENCODER}
        return {node: alone}

    def picture(self, adapter: str, person: str, strength: float = 1.0) -> Prompt:
        """A picture for a person by an adapter."""
        prompt = set_inputs(self.prompt, "PPD_UserAdapterLoader", user_adapter=f"{adapter}.safetensors")
        prompt = set_inputs(prompt, "PreferencePairLoader", preference_set=f"person: {person}")
        prompt = set_inputs(prompt, "PersonalizedDenoiser", strength=strength)
        positive = prompt[nodes_of(prompt, "PersonalizedDenoiser")[0]]["inputs"]["positive"][0]
        prompt[positive]["inputs"]["text"] = PROMPT
        return upstream(prompt, "SaveImage")

    def plain(self) -> Prompt:
        """The base's picture by the stock sampler."""
        prompt = self.picture(BY_TEMPLATE, "me")
        node = prompt[nodes_of(prompt, "PersonalizedDenoiser")[0]]
        node["class_type"] = "KSampler"
        node["inputs"] = {name: x for name, x in node["inputs"].items() if name not in OURS}
        return upstream(prompt, "SaveImage")


def use_parts(prompt: Prompt, text_type: str) -> None:
    """Puts the stock loaders of a model's parts where the graph loads a checkpoint."""
    (checkpoint,) = nodes_of(prompt, "CheckpointLoaderSimple")
    parts = {
        "model": ("UNETLoader", {"unet_name": FILE, "weight_dtype": "default"}),
        "clip": ("CLIPLoader", {"clip_name": FILE, "type": text_type}),
        "vae": ("VAELoader", {"vae_name": FILE}),
    }
    for node in prompt.values():
        for name, source in node["inputs"].items():
            if isinstance(source, list) and source[0] == checkpoint:
                node["inputs"][name] = [list(parts)[source[1]], 0]
    prompt |= {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in parts.items()}
    del prompt[checkpoint]


def upstream(prompt: Prompt, class_type: str) -> Prompt:
    """The node of a class, and all that it needs."""
    wanted, found = nodes_of(prompt, class_type), set[str]()
    while wanted:
        found.add(node := wanted.pop())
        wanted += [x[0] for x in prompt[node]["inputs"].values() if isinstance(x, list)]
    return {node: deepcopy(entry) for node, entry in prompt.items() if node in found}
