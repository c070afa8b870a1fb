"""IP-Adapter's files as user adapters: against diffusers' own projections and attention, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from safetensors.torch import load_file, save_file
from torch import nn

from ppd.adapters.ip_adapter import TasteIPAdapter, layout_of, load_ip_adapter
from ppd.branch import Scope
from ppd.families import FAMILIES
from ppd.hosts.diffusers import DiffusersHost, cross_attentions, guidance_rows

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
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


def for_taste(adapter, start=None, dim=6):
    """The published adapter as one of u, with a drawn center and directions as long as what it sees."""
    g = torch.Generator().manual_seed(8)
    center, directions = draw(g, *adapter.seen_shape), draw(g, dim, *adapter.seen_shape) * 0.5
    return TasteIPAdapter(adapter, "some-tower", "0" * 64, center, directions, start)


def difference_by_diffusers(unet, tensors, kind, family, x, prompt, seen):
    """diffusers' own IP-Adapter twice side by side: `seen` [B, N, width] at scale 1, its last row's at scale -1."""
    images = [image_proj(tensors)] * 2
    layers = {n.removeprefix("ip_adapter."): y for n, y in tensors.items() if n.startswith("ip_adapter.")}
    other = copy.deepcopy(unet)
    other._load_ip_adapter_weights(
        [{"image_proj": image, "ip_adapter": layers} for image in images], low_cpu_mem_usage=False
    )
    if kind == "plus":  # what it sees are tokens already
        other.encoder_hid_proj.image_projection_layers = nn.ModuleList([nn.Identity(), nn.Identity()])
    style = FAMILIES[family].style
    processors = [p for n, p in other.attn_processors.items() if n.endswith("attn2.processor")]
    for number, processor in enumerate(processors):
        assert isinstance(processor, IPAdapterAttnProcessor2_0)
        processor.scale = [1.0, -1.0] if number in style else [0.0, 0.0]
    moved, center = (part if kind == "plain" else part[:, None] for part in seen)
    return other(x, 700, prompt, added_cond_kwargs={"image_embeds": [moved, center]}).sample


@pytest.mark.parametrize("own_pictures", [False, True])
@torch.no_grad()
def test_denoiser_is_diffusers(published, own_pictures):
    """What is predicted is diffusers' own IP-Adapter of the moved picture less that of the mean one, in the style
    layers: both rules of guidance, strength and its limit come from the plan, and nothing is converted by hand."""
    family, kind, unet, tensors, published_adapter = published
    g = torch.Generator().manual_seed(6)
    start = draw(g, *published_adapter.seen_shape) if own_pictures else None
    adapter = for_taste(published_adapter, start)
    u, x, prompt = draw(g, 2, 1, 6), draw(g, 4, 4, 8, 8), draw(g, 4, 7, CONTEXT[family])
    for strength, used in ((0.6, 0.6), (3.0, 2.0)):
        rows = guidance_rows(u, adapter.config.unconditional)
        with DiffusersHost(unet, adapter).personalized(rows, strength):
            ours = unet(x, 700, prompt).sample
        opposite = torch.cat([-u, u])[:, 0]
        middle = adapter.center if start is None else torch.lerp(adapter.center, start, min(used, 1.0))
        moved = middle + used * torch.einsum("bd,dnw->bnw", opposite, adapter.directions)
        seen = moved, adapter.center.expand_as(moved)
        theirs = difference_by_diffusers(unet, tensors, kind, family, x, prompt, seen)
        torch.testing.assert_close(ours, theirs, **CLOSE)
        assert (ours - unet(x, 700, prompt).sample).abs().max() > 1e-2


@torch.no_grad()
def test_nobody_known_is_the_plain_picture_and_little_known_is_near_it(published):
    family, _, unet, _, published_adapter = published
    adapter = for_taste(published_adapter)
    g = torch.Generator().manual_seed(7)
    u, x, prompt = draw(g, 1, 1, 6), draw(g, 1, 4, 8, 8), draw(g, 1, 7, CONTEXT[family])
    plain, host = unet(x, 700, prompt).sample, DiffusersHost(unet, adapter)

    def moved(u, strength=1.0):
        with host.personalized(u, strength):
            return (unet(x, 700, prompt).sample - plain).norm()

    assert moved(0 * u) == 0 and moved(u, 0.0) == 0
    far = [moved(length * u).item() for length in (0.02, 0.2)]
    assert far[0] < 0.2 * far[1]  # in proportion to u, where u is small
    torch.testing.assert_close(moved(0.5 * u), moved(u, 0.5))


def test_the_family_is_told_by_its_layers(published):
    family, kind, unet, _, adapter = published
    assert adapter.family == family and adapter.seen_shape == ((1, 1024) if kind == "plain" else (16, CONTEXT[family]))
    ours = for_taste(adapter)
    assert ours.config.layers == tuple(attention.inner_dim for attention in cross_attentions(unet))
    assert ours.config.embedding_dim == 6 and ours.config.unconditional == "negative"
    assert Scope().places(ours) == FAMILIES[family].style and len(Scope("all").places(ours)) == FAMILIES[family].count


def test_what_was_fitted_to_another_adapter_is_refused(published):
    adapter = published[-1]
    with pytest.raises(ValueError, match=r"takes features of shape .* got a center of \[3, 5\]"):
        TasteIPAdapter(adapter, "x", "0" * 64, torch.zeros(3, 5), torch.zeros(6, *adapter.seen_shape))
    with pytest.raises(ValueError, match=r"takes \[B, 1, 6\]: use an embedding made by the encoder 'some-tower'"):
        for_taste(adapter).keys_values(torch.zeros(1, 1, 5))


def test_other_files_are_refused(published, tmp_path):
    family, kind, _, tensors, _ = published

    def refused(changed, match, name="other.safetensors"):
        save_file({key: value.contiguous() for key, value in changed.items()}, tmp_path / name)
        with pytest.raises(ValueError, match=match):
            load_ip_adapter(tmp_path / name)

    refused(tensors, "not safetensors.*convert it: torch.load", "ip-adapter.bin")
    first = "proj.weight" if kind == "plain" else "layers.0.0.to_q.weight"
    refused({n: x for n, x in tensors.items() if n != f"image_proj.{first}"}, "of another kind")
    refused({"x": torch.ones(1)}, "is no IP-Adapter")
    refused({**tensors, "lora.weight": torch.ones(1)}, "is no IP-Adapter")
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith("ip_adapter."))
    refused({n: x for n, x in tensors.items() if not n.startswith(f"ip_adapter.{last}.")}, "runs those of SD1.5")
    without_norms = {n: x for n, x in tensors.items() if "norm" not in n or "ip_adapter" in n}
    refused(without_norms, r"'projector\.\S*norm\S*': expected \[\d+\], got None")
    wide = "image_proj.proj.weight" if kind == "plain" else "image_proj.proj_in.weight"
    refused({**tensors, wide: torch.cat([tensors[wide]] * 2, 1)}, "of another kind")
    refused({**tensors, wide: tensors[wide] * torch.nan}, f"numbers of at most 65504 as '{wide}', got nan")
    (tmp_path / "cut.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_ip_adapter(tmp_path / "cut.safetensors")


def layers_of(count, context, width=8):
    names = [f"ip_adapter.{2 * number + 1}.to_{which}_ip.weight" for number in range(count) for which in "kv"]
    return {name: torch.ones(width, context) for name in names}


def face_id(context=768):
    image = {"image_proj.proj.0.weight": torch.ones(16, 512), "image_proj.norm.weight": torch.ones(context)}
    return {**image, **layers_of(16, context), "ip_adapter.0.to_q_lora.down.weight": torch.ones(4, 8)}


def flux(count=57):
    return {"image_proj.proj.0.weight": torch.ones(8, 1152)} | {
        f"ip_adapter.{number}.to_{which}_ip.weight": torch.ones(4, 4096) for number in range(count) for which in "kv"
    }


XLABS = {"double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": torch.ones(4, 4096)}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (face_id(), "an IP-Adapter FaceID, .*: use a plain or a plus one for ViT-H, such as ip-adapter_sd15"),
        ({"image_proj.perceiver_resampler.proj_in.weight": torch.ones(8, 1280)}, "an IP-Adapter FaceID"),
        (
            {"image_proj.proj.0.weight": torch.ones(8, 1280), "image_proj.proj.3.weight": torch.ones(8)},
            "full face.*: use",
        ),
        (flux(), "InstantX's IP-Adapter for Flux, .*: use one of theirs"),
        (XLABS, "XLabs' IP-Adapter for Flux, .*: use one of theirs"),
        (
            {"image_proj.proj.weight": torch.ones(8192, 1280), **layers_of(70, 2048)},
            "seen by ViT-bigG, .*: use a plain",
        ),
        ({"image_proj.proj_in.weight": torch.ones(8, 1664), **layers_of(16, 768)}, "seen by ViT-bigG"),
    ],
    ids=["faceid", "faceid-plus", "full-face", "instantx", "xlabs", "vit-g", "plus-vit-g"],
)
def test_other_kinds_are_named_with_what_to_use_instead(tmp_path, tensors, words):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=f"^x.safetensors is .*{words}"):
        load_ip_adapter(tmp_path / "x.safetensors")
    assert layout_of(tmp_path / "x.safetensors") is None


def test_a_face_id_that_would_have_to_be_converted_first_is_named_too(tmp_path):
    (tmp_path / "ip-adapter-faceid-plusv2_sd15.bin").touch()
    with pytest.raises(ValueError, match="plusv2_sd15.bin is an IP-Adapter FaceID"):
        load_ip_adapter(tmp_path / "ip-adapter-faceid-plusv2_sd15.bin")


NUMBER = "ip_adapter.1.to_k_ip.weight"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (NUMBER, lambda x: x[0], r"layers, the first of shape \[768\]"),
        (NUMBER, lambda x: x[:, :700], r"the first of shape \[8, 700\]"),
        (NUMBER, lambda x: x.to(torch.int8), f"expected BF16, F16, F32, F64 as '{NUMBER}', got I8"),
        (NUMBER, lambda x: x * torch.nan, f"numbers of at most 65504 as '{NUMBER}', got nan"),
        (NUMBER, lambda x: x * torch.inf, f"numbers of at most 65504 as '{NUMBER}', got inf"),
        (
            "ip_adapter.1.to_v_ip.weight",
            lambda x: x[:7],
            r"'layers.0.to_v_user.weight': expected \[8, 768\], got \[7, 768\]",
        ),
        ("image_proj.norm.weight", lambda x: x[:7], r"'projector.norm.weight': expected \[768\], got \[7\]"),
        ("image_proj.proj.weight", lambda x: x[0, 0], "of another kind"),
    ],
)
def test_damage_is_told(ip_adapter_file, tmp_path, name, change, words):
    path = ip_adapter_file("plain", [8] * 16, 768)
    tensors = load_file(path)
    save_file({**tensors, name: change(tensors[name]).contiguous()}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=words):
        load_ip_adapter(tmp_path / "x.safetensors")


def test_a_layer_numbered_beyond_all_is_refused_at_once(ip_adapter_file, tmp_path):
    path = ip_adapter_file("plus", [8] * 16, 768)
    tensors = load_file(path)
    tensors["image_proj.layers.1000000000.0.norm1.weight"] = torch.ones(128)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="layers.1000000000.0.norm1.weight': expected None"):
        load_ip_adapter(tmp_path / "x.safetensors")


def test_neither_saves_itself_as_a_trained_adapter(published):
    """A file of it would be refused: the published one is what there is to keep."""
    assert not hasattr(published[-1], "save") and not hasattr(for_taste(published[-1]), "save")
