"""IP-Adapter's files as user adapters: against diffusers' own projections and attention, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from safetensors.torch import load_file, save_file
from torch import nn

from ppd.hosts.diffusers import DiffusersHost, cross_attentions, guidance_rows
from ppd.ip_adapter import load_ip_adapter

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
CONTEXT = {"sd15": 768, "sdxl": 2048}


def denoiser(family):
    """The family's own blocks at a small width, with its own width of context."""
    down = {"sd15": (1, 1, 1, 0), "sdxl": (0, 2, 10)}[family]
    kinds = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in down]
    extra = {"transformer_layers_per_block": (1, 2, 10)} if family == "sdxl" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32,) * len(down),
            down_block_types=tuple(kinds),
            up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(kinds)),
            cross_attention_dim=CONTEXT[family],
            attention_head_dim=2,
            norm_num_groups=8,
            **extra,
        )
    return unet.eval().requires_grad_(False)


def draw(generator, *shape):
    return torch.randn(*shape, generator=generator)


@pytest.fixture(scope="module", params=[(f, k) for f in CONTEXT for k in ("plain", "plus")], ids="-".join)
def published(request, ip_adapter_file):
    """Family, kind, its denoiser, an adapter's tensors, and the adapter read from their file."""
    family, kind = request.param
    unet = denoiser(family)
    path = ip_adapter_file(kind, [attention.inner_dim for attention in cross_attentions(unet)], CONTEXT[family])
    return family, kind, unet, load_file(path), load_ip_adapter(path)


def image_proj(tensors):
    return {n.removeprefix("image_proj."): x for n, x in tensors.items() if n.startswith("image_proj.")}


def with_diffusers_own(unet, tensors):
    """The denoiser with the file loaded by diffusers."""
    layers = {n.removeprefix("ip_adapter."): x for n, x in tensors.items() if n.startswith("ip_adapter.")}
    other = copy.deepcopy(unet)
    other._load_ip_adapter_weights([{"image_proj": image_proj(tensors), "ip_adapter": layers}], low_cpu_mem_usage=False)
    return other


@torch.no_grad()
def test_projector_is_diffusers(published):
    _, kind, unet, tensors, adapter = published
    (projection,) = with_diffusers_own(unet, tensors).encoder_hid_proj.image_projection_layers
    assert type(projection) is (ImageProjection if kind == "plain" else IPAdapterPlusImageProjection)
    g = torch.Generator().manual_seed(4)
    x = draw(g, 2, 1024) if kind == "plain" else draw(g, 2, 257, 1280)
    torch.testing.assert_close(adapter.projector(x), projection(x), **CLOSE)


@torch.no_grad()
def test_denoiser_is_diffusers(published):
    """The same prediction as with diffusers' own IP-Adapter, every row with tokens of its own."""
    family, kind, unet, tensors, adapter = published
    g = torch.Generator().manual_seed(6)
    shape = (2, 1, 1024) if kind == "plain" else (2, 16, CONTEXT[family])
    u, u_negative = draw(g, *shape), draw(g, *shape)
    x, prompt = draw(g, 4, 4, 8, 8), draw(g, 4, 7, CONTEXT[family])
    (positive, negative), gain = adapter.sides(u, u_negative, 0.8)
    with DiffusersHost(unet, adapter).personalized(guidance_rows(positive, "negative", negative), gain):
        ours = unet(x, 700, prompt).sample
    other = with_diffusers_own(unet, tensors)
    if kind == "plus":  # its embeddings are tokens already
        other.encoder_hid_proj.image_projection_layers = nn.ModuleList([nn.Identity()])
    for processor in other.attn_processors.values():
        if isinstance(processor, IPAdapterAttnProcessor2_0):
            processor.scale = [gain]
    embeds = torch.cat([negative, positive])
    theirs = other(x, 700, prompt, added_cond_kwargs={"image_embeds": [embeds if kind == "plain" else embeds[:, None]]})
    torch.testing.assert_close(ours, theirs.sample, **CLOSE)
    assert (ours - unet(x, 700, prompt).sample).abs().max() > 1e-2


def test_the_family_is_told_by_its_layers(published):
    family, kind, unet, _, adapter = published
    config = adapter.config
    assert config.family == family and config.unconditional == "negative" and adapter.default_part == "style only"
    assert config.layers == tuple(attention.inner_dim for attention in cross_attentions(unet))
    assert config.embedding_dim == (1024 if kind == "plain" else CONTEXT[family])


def test_strength_moves_both_sides_from_their_middle(published):
    adapter = published[-1]
    u, u_negative = torch.tensor([[[3.0]]]), torch.tensor([[[1.0]]])
    for strength, sides, gain in (
        (0.5, (2.5, 1.5), 0.5),
        (1.0, (3.0, 1.0), 1.0),
        (2.0, (4.0, 0.0), 1.0),
        (3.0, (4.0, 0.0), 1.0),
    ):
        found, values = adapter.sides(u, u_negative, strength)
        assert tuple(side.item() for side in found) == sides and values == gain


def test_other_files_are_refused(published, tmp_path):
    family, kind, _, tensors, _ = published

    def refused(changed, match, name="other.safetensors"):
        save_file({key: value.contiguous() for key, value in changed.items()}, tmp_path / name)
        with pytest.raises(ValueError, match=match):
            load_ip_adapter(tmp_path / name)

    refused(tensors, "not safetensors.*convert it: torch.load", "ip-adapter.bin")
    first = "proj.weight" if kind == "plain" else "layers.0.0.to_q.weight"
    refused({n: x for n, x in tensors.items() if n != f"image_proj.{first}"}, "of another kind")
    refused({"x": torch.ones(1)}, "neither a user adapter nor an IP-Adapter")
    refused({**tensors, "lora.weight": torch.ones(1)}, "neither a user adapter")
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith("ip_adapter."))
    refused({n: x for n, x in tensors.items() if not n.startswith(f"ip_adapter.{last}.")}, "runs those of SD1.5")
    refused({n: x for n, x in tensors.items() if "norm" not in n or "ip_adapter" in n}, "of another kind")
    wide = "image_proj.proj.weight" if kind == "plain" else "image_proj.proj_in.weight"
    refused({**tensors, wide: torch.cat([tensors[wide]] * 2, 1)}, "of another kind")
    (tmp_path / "cut.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_ip_adapter(tmp_path / "cut.safetensors")
