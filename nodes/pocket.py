"""The pocket model: a small latent diffusion model that comes with the pack."""

from __future__ import annotations

from comfy_api.latest import io

from ..ppd.files import file_digest
from ..ppd.pocket.comfyui import load_pocket
from . import folders
from .sockets import CATEGORY

BASE_FILE = "pocket_base.safetensors"


class PPD_PocketCheckpointLoader(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_PocketCheckpointLoader",
            display_name="Load Pocket Checkpoint",
            category=CATEGORY,
            description="Loads the small model that comes with the pack. It paints little landscapes of 128 x 128 "
            "pixels, works with the stock nodes, and needs no download and no GPU.",
            search_aliases=["checkpoint", "tiny model", "test model", "demo"],
            inputs=[
                io.Combo.Input(
                    "checkpoint", options=[folders.POCKET], tooltip="The model in the pack's weights folder."
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The denoiser. Use 128 x 128 latents."),
                io.Clip.Output(display_name="CLIP", tooltip="The text encoder. It names words it does not know."),
                io.Vae.Output(display_name="VAE", tooltip="The autoencoder."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str) -> str:
        return file_digest(folders.shipped_file(BASE_FILE))

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        return io.NodeOutput(*load_pocket(folders.shipped_file(BASE_FILE)))
