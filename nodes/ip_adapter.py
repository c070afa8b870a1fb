"""Published IP-Adapters as adapters of a taste encoder's user embeddings."""

from __future__ import annotations

from functools import partial

import comfy.clip_model
import comfy.clip_vision
import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..ppd.adapters.ip_adapter import IPAdapter, load_ip_adapter
from ..ppd.encoders.features import PictureFeatures
from ..ppd.encoders.image_prompt import MOST, ImagePromptTower, fit_to_taste
from ..ppd.files import file_digest
from ..ppd.hosts.comfyui import manage_adapter
from ..ppd.pairs import PreferencePair
from . import folders
from .encoders import encoder_digest, load_encoder, taste_encoders
from .sockets import CATEGORY, PreferencePairs, UserAdapter


def ip_adapters() -> list[str]:
    """Names of the files of models/ipadapter; .bin is refused with the way to convert it, rather than missing."""
    return [name for name in folder_paths.get_filename_list("ipadapter") if name.endswith((".safetensors", ".bin"))]


class PPD_IPAdapterLoader(io.ComfyNode):  # noqa: N801
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PPD_IPAdapterLoader",
            display_name="Load IP-Adapter for Taste",
            category=CATEGORY,
            description="Makes a published IP-Adapter a user adapter for SD1.5 and SDXL, without training: its image "
            "prompt is the mean of your pictures, moved the way the user embedding points (exponential tilting).",
            search_aliases=["ipadapter", "load user adapter", "image prompt", "preference adapter", "taste adapter"],
            inputs=[
                io.Combo.Input(
                    "ip_adapter",
                    options=ip_adapters(),
                    tooltip="A file of models/ipadapter, for SD1.5 or SDXL and ViT-H, plain or plus.",
                ),
                io.Combo.Input(
                    "taste_encoder",
                    options=taste_encoders(),
                    tooltip="Taste encoder whose user embeddings it takes: the one chosen in Encode User Embedding.",
                ),
                io.Combo.Input(
                    "pictures",
                    options=folders.picture_folders(),
                    tooltip="Pictures like those that you paint: your studies, or ComfyUI's output folder. 32 at "
                    "least, hundreds are better. "
                    f"What varies in them is what taste can change. Of more than {MOST}, so many are taken, evenly.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The IP-Adapter's image encoder, CLIP-ViT-H-14-laion2B-s32B-b79K, by Load CLIP Vision.",
                ),
                PreferencePairs.Input(
                    "own_pictures",
                    optional=True,
                    tooltip="Somebody's picks: the mean of the chosen pictures is then what is moved and painted, with "
                    "its look, instead of the mean of all. Without it pictures keep the model's own look.",
                ),
            ],
            outputs=[UserAdapter.Output(display_name="user_adapter", tooltip="The adapter.")],
        )

    @classmethod
    def fingerprint_inputs(cls, ip_adapter: str, taste_encoder: str, pictures: str) -> str:
        # Not of the pictures: an output folder grows with each run, and an adapter is to stay what it is
        return f"{file_digest(folders.model_file('ipadapter', ip_adapter))} {encoder_digest(taste_encoder)}"

    @classmethod
    def execute(
        cls,
        ip_adapter: str,
        taste_encoder: str,
        pictures: str,
        clip_vision: comfy.clip_vision.ClipVisionModel | None = None,
        own_pictures: list[PreferencePair] | None = None,
    ) -> io.NodeOutput:
        if clip_vision is None:  # its loader is bypassed: no adapter, and pictures stay plain
            return io.NodeOutput(None)
        published = load_ip_adapter(folders.model_file("ipadapter", ip_adapter))
        chosen = [pair.chosen for pair in own_pictures or () if not pair.tie]
        found = folders.pictures_in(pictures, MOST)
        bar = comfy.utils.ProgressBar(max(1, 2 * len(found) + len(chosen)))

        def progress(done: int, total: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, total)

        seen = image_features(published, clip_vision)
        adapter = fit_to_taste(published, load_encoder(taste_encoder), seen, found, chosen, progress=progress)
        return io.NodeOutput(manage_adapter(adapter))


def image_features(published: IPAdapter, clip_vision: comfy.clip_vision.ClipVisionModel) -> PictureFeatures:
    """What an IP-Adapter sees, by ComfyUI's CLIP vision model; kept on disk as well."""
    if published.is_plus:
        comfy.model_management.load_model_gpu(manage_adapter(published.projector))

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        seen = clip_vision.encode_image(x.movedim(1, -1))
        return seen["image_embeds"], seen["penultimate_hidden_states"]

    # Normalising is left to encode_image
    fit = partial(comfy.clip_model.clip_preprocess, size=clip_vision.image_size, mean=[0.0] * 3, std=[1.0] * 3)
    tower = ImagePromptTower(clip_vision.model, look, fit, published)
    return PictureFeatures(tower, cache_dir=folders.feature_cache())
