"""Personalized Preference Diffusion for ComfyUI: one diffusion model that paints for one person."""

from .nodes import PersonalizationExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> PersonalizationExtension:
    """What ComfyUI calls to get the nodes."""
    return PersonalizationExtension()
