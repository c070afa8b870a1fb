"""Which of ComfyUI's models have a row in our table of denoisers, and the mode for those that have none."""

from __future__ import annotations

from collections import defaultdict
from importlib.util import find_spec

import pytest
import torch

from ppd.branch import describe
from ppd.families import title_of
from ppd.families.transformers import TRANSFORMERS

from .test_comfyui_low_rank import adapter_for, person
from .tiny_models import TINY, TOKENS, WIDTH, Tiny, build, conditioning, latent, sample

if find_spec("comfy"):
    import comfy.model_base
    import comfy.supported_models
    from comfy.ldm.cascade.stage_c import StageC
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    from ppd.hosts.comfyui import apply_user, manage_adapter

pytestmark = pytest.mark.comfyui

PICTURES_WITHOUT_A_ROW = """
    AuraFlow Boogu HiDreamO1 HunyuanDiT HunyuanDiT1 JoyImage Kandinsky5Image Omnigen2 PiD PixArtAlpha PixArtSigma
    PixelDiTT2I Stable_Cascade_B ZImagePixelSpace
""".split()
"""Classes of models that paint pictures, whose layers are found by their names."""
NO_PICTURES = """
    ACEStep ACEStep15 CogVideoX_I2V CogVideoX_Inpaint CogVideoX_T2V CosmosI2V CosmosT2V DepthAnything3 GenmoMochi
    Hunyuan3Dv2 Hunyuan3Dv2_1 Hunyuan3Dv2mini Kandinsky5 LTXAV LTXV MiniMaxH3 MiniMaxMusic3 RT_DETR_v4 SAM3 SAM31
    SeedVR2 StableAudio StableAudio3 Trellis2 TripoSplat WAN21_Camera WAN21_CausalAR_T2V WAN21_HuMo WAN21_SCAIL
    WAN21_SCAIL2 WAN21_Vace WAN22_Animate WAN22_Camera WAN22_S2V WAN22_WanDancer WAN_Animate2
""".split()
"""Classes without a row of models for film, sound, shapes in space, and of those that look at pictures."""


class FoundError(Exception):
    """Carries the class of a denoiser out of the model that was about to build it."""


def denoisers(monkeypatch):
    """The class of each supported model's denoiser, by the model's name."""

    def stop(self, model_config, model_type=None, device=None, unet_model=UNetModel):
        raise FoundError(unet_model)

    monkeypatch.setattr(comfy.model_base.BaseModel, "__init__", stop)
    found = {}
    for kind in comfy.supported_models.models:
        weights = defaultdict(lambda: torch.zeros(1, 1))
        with pytest.raises(FoundError) as stopped:
            kind(defaultdict(int, kind.unet_config)).get_model(weights, device="cpu")
        (found[kind.__name__],) = stopped.value.args
    return found


def test_every_class_of_model_has_a_row_or_is_known_to_have_none(monkeypatch):
    found, rows = denoisers(monkeypatch), {row.denoiser for row in TRANSFORMERS.values()}
    without = {
        name: denoiser.__name__
        for name, denoiser in found.items()
        if denoiser not in (UNetModel, StageC) and denoiser.__name__ not in rows
    }
    new = {name: without[name] for name in without.keys() - {*PICTURES_WITHOUT_A_ROW, *NO_PICTURES}}
    assert not new, (
        f"ComfyUI has models whose denoisers have no row: {new}. Add a row to ppd/families/transformers.py and a tiny "
        "configuration to tiny_models.py, or the model's name to one of the lists above."
    )
    assert sorted(without) == sorted([*PICTURES_WITHOUT_A_ROW, *NO_PICTURES]), "some have a row now, or are gone"
    assert sorted(PICTURES_WITHOUT_A_ROW) == PICTURES_WITHOUT_A_ROW and sorted(NO_PICTURES) == NO_PICTURES
    assert rows <= {denoiser.__name__ for denoiser in found.values()}, "a row names a class that ComfyUI has not"


NEW = {
    "AuraFlow": Tiny(
        "AuraFlow",
        {"cond_seq_dim": WIDTH, "dim": 64, "global_conddim": 64, "max_seq": 64, "n_heads": 2}
        | {"n_double_layers": 2, "n_layers": 5},
        latent=(4, 8, 8),
    ),
    "Kandinsky5Image": Tiny(
        "Kandinsky5Image",
        {
            "image_model": "kandinsky5",
            "model_dim": 64,
            "visual_embed_dim": 64,
            "in_text_dim": WIDTH,
            "in_text_dim2": 24,
            "time_dim": 32,
            "ff_dim": 96,
            "num_text_blocks": 2,
            "num_visual_blocks": 3,
            "axes_dims": (8, 12, 12),
            "rope_scale_factor": (1.0, 1.0, 1.0),
        },
        pooled=24,
    ),
    "Omnigen2": Tiny(
        "Omnigen2",
        {
            "image_model": "omnigen2",
            "hidden_size": 64,
            "num_layers": 3,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "multiple_of": 32,
            "axes_dim_rope": (8, 12, 12),
            "axes_lens": (64, 32, 32),
            "text_feat_dim": WIDTH,
        },
    ),
}
"""Tiny models of classes without a row."""


@torch.inference_mode()
@pytest.mark.parametrize(("name", "layers"), [("AuraFlow", 28), ("Kandinsky5Image", 27), ("Omnigen2", 12)])
def test_layers_of_a_new_kind_are_found_by_name_and_the_person_is_told(name, layers, monkeypatch):
    monkeypatch.setitem(TINY, name, NEW[name])
    model, outcomes = build(name), []

    def paint(model):
        mask = torch.ones(1, TOKENS, dtype=torch.int64)  # which Omnigen2 counts its tokens by
        positive, negative = (conditioning(name, seed, attention_mask=mask) for seed in (0, 1))
        return sample(model, positive, negative, latent(name))

    adapter = adapter_for(model)
    managed, plain = manage_adapter(adapter), paint(model)
    assert torch.equal(paint(apply_user(model, managed, [person(scale=0)])), plain)
    personal = paint(apply_user(model, managed, [person()], on_outcome=outcomes.append))
    assert not torch.allclose(personal, plain, rtol=1e-2, atol=1e-2)
    assert [(one.reached, one.places) for one in outcomes] == [(layers, layers)]
    said = describe(adapter, [person()], 1.0).splitlines()[0]
    assert said.endswith(" This kind of model is new here: its layers were found by their names.")
    assert title_of(adapter.config.family) == adapter.config.family == type(model.model.diffusion_model).__name__
