"""All that a training of an own checkpoint reads, as ordinary files: a Flux as narrow as its loader takes, its text
encoder (which has one size) and VAE, studies in two looks, and the taste encoder made of them."""

from __future__ import annotations

from pathlib import Path

from comfy.taesd.taesd import TAESD
from safetensors.torch import load_file, save_file

from ppd.encoders.features import PictureFeatures
from ppd.encoders.towers import open_tower
from ppd.encoders.workshop import Materials, make_encoder, save_encoder
from ppd.lexicon import Look
from ppd.pocket.studio import ENCODER, WEIGHTS
from ppd.studies import Cell, continue_studies, noise_of, open_studies

from ..hosts.test_comfyui_base import FLUX
from ..hosts.tiny_models import at_random
from ..server.model_files import write_checkpoint, write_random
from .study_sets import LOOKS, SAMPLING, latent_of, scene

SHAPE = (1, 16, 8, 8)
PROMPTS = (0, 1, 2, 3, 4, 5, 6, 7, 14)
"""Of which four are held out."""
TEXT = "cond_stage_model.transformer."


def write_models(diffusion_model: Path, text_encoder: Path, vae: Path) -> None:
    """The checkpoint in parts, of random weights."""
    for path in (diffusion_model, text_encoder, vae):
        path.parent.mkdir(parents=True, exist_ok=True)
    save_file(at_random(FLUX).model.diffusion_model.state_dict(), diffusion_model)
    write_random(vae, {name: x for name, x in TAESD(latent_channels=SHAPE[1]).state_dict().items() if x.ndim})
    whole = text_encoder.with_name("whole.safetensors")
    write_checkpoint(whole, "sd15", text_encoder=True)
    weights = {name.removeprefix(TEXT): x.clone() for name, x in load_file(whole).items() if name.startswith(TEXT)}
    save_file(weights, text_encoder)
    whole.unlink()


def write_studies(studies: Path, encoder: Path) -> None:
    """Studies of a model that does not say which it is, and their encoder, with the pocket's tower in its folder."""
    writer = continue_studies(studies, LOOKS, None, SAMPLING)
    cells = [Cell(look, f"prompt {number}", number) for number in PROMPTS for look in LOOKS]
    for cell in cells:
        for side, sign in (("low", -1), ("high", 1)):
            picture = _side(cell.look, cell.seed, sign)
            latent = latent_of(picture).repeat(1, SHAPE[1] // 4, 1, 1)
            writer.add(cell, side, picture, latent, noise_of(cell.seed, SHAPE))
    shipped = WEIGHTS / ENCODER
    features = PictureFeatures(open_tower({"kind": "folder"}, shipped))
    made = make_encoder(features, {"kind": "folder"}, Materials(open_studies(studies)))
    save_encoder(made, encoder, shipped)


def _side(look: Look, seed: int, sign: int):
    light, warmth = (0.25 * sign * (look == one) for one in LOOKS)
    return scene(seed, light, warmth)
