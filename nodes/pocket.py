"""The pocket models: small latent diffusion models that come with the pack."""

from __future__ import annotations

from comfy_api.latest import io

from ..ppd.files import file_digest
from ..ppd.pocket.comfyui import load_pocket, load_turbo
from . import folders
from .sockets import CATEGORY

FLOW_FILE = "pocket_flow_base.safetensors"
FILES = {
    "pocket flow": (FLOW_FILE,),
    "pocket flow turbo": (FLOW_FILE, "pocket_flow_turbo.safetensors"),
    folders.POCKET: ("pocket_base.safetensors",),
}
"""What each choice loads: a base, and the LoRA on it. Those that are not in the weights are not offered."""


def _shipped() -> list[str]:
    return [name for name, files in FILES.items() if all((folders.WEIGHTS / file).is_file() for file in files)]


class PPD_PocketCheckpointLoader(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_PocketCheckpointLoader",
            display_name="Load Pocket Checkpoint",
            category=CATEGORY,
            description="Loads a small model that comes with the pack. It paints little landscapes of 128 x 128 "
            "pixels, works with the stock nodes, and needs no download and no GPU. Pocket is a UNet and draws flat "
            "pictures; pocket flow is a transformer, paints, and knows words for looks; its turbo needs 4 steps at "
            "cfg 1.",
            search_aliases=["checkpoint", "tiny model", "test model", "demo"],
            inputs=[
                io.Combo.Input("checkpoint", options=_shipped(), tooltip="The model in the pack's weights folder."),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The denoiser. Use 128 x 128 latents."),
                io.Clip.Output(display_name="CLIP", tooltip="The text encoder. It names words it does not know."),
                io.Vae.Output(display_name="VAE", tooltip="The autoencoder."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str) -> str:
        return " ".join(file_digest(folders.shipped_file(name)) for name in FILES[checkpoint])

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        base, *loras = map(folders.shipped_file, FILES[checkpoint])
        return io.NodeOutput(*(load_turbo(base, *loras) if loras else load_pocket(base)))
