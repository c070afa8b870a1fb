"""Personalized Preference Diffusion for ComfyUI: one diffusion model that paints for one person."""

from pathlib import Path

from .ppd.hosts.comfyui_entry import refuse_old_comfyui, refuse_second_copy

refuse_old_comfyui()
refuse_second_copy(Path(__file__).parent)

from .nodes import PersonalizationExtension  # noqa: E402 (what it needs is there only now)

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> PersonalizationExtension:
    """What ComfyUI calls to get the nodes."""
    return PersonalizationExtension()
