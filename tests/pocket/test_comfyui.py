"""The pocket model in ComfyUI against the same file in diffusers and transformers, and on ComfyUI's own nodes."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from ppd.pocket.base_file import read_base, write_base

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    import comfy.model_management
    import latent_preview
    import nodes
    from comfy_execution.utils import CurrentNodeContext
    from server import PromptServer

    from ppd.pocket.comfyui import UNKNOWN_WORDS, Pocket, load_pocket

PROMPTS = ["a red boat under the moon", "", "house , hill"]


@pytest.fixture(scope="module")
def pocket(pocket_base_file):
    return load_pocket(pocket_base_file)


@pytest.fixture(scope="module")
def reference(pocket_base_file):
    """diffusers' and transformers' modules with the file's weights, float32."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from ppd.pocket.autoencoder import PocketAutoencoder

    base = read_base(pocket_base_file)
    unet = UNet2DConditionModel(**base.metadata["unet_config"])
    unet.load_state_dict(base.denoiser)
    text = CLIPTextModel(CLIPTextConfig(**base.metadata["text_config"]))
    prefixed = any(name.startswith("text_model.") for name in text.state_dict())
    names = {name if prefixed else name.removeprefix("text_model."): x for name, x in base.text_encoder.items()}
    text.load_state_dict(names)
    vae = PocketAutoencoder(**base.metadata["vae_config"])
    vae.load_state_dict(base.vae)
    return unet.eval(), text.eval(), vae.eval()


def tokens(prompts):
    from open_clip.tokenizer import SimpleTokenizer

    rows = torch.full((len(prompts), 77), 49407)
    for row, prompt in zip(rows, prompts, strict=True):
        ids = [49406, *SimpleTokenizer().encode(prompt)]
        row[: len(ids)] = torch.tensor(ids)
    return rows


@torch.inference_mode()
def test_the_text_encoder_is_transformers(pocket, reference):
    for prompt, ids in zip(PROMPTS, tokens(PROMPTS), strict=True):
        (cond,) = nodes.CLIPTextEncode().encode(pocket[1], prompt)
        expected = reference[1](ids[None]).last_hidden_state
        torch.testing.assert_close(cond[0][0], expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_autoencoder_is_the_engines(pocket, reference):
    pictures = torch.rand(2, 64, 96, 3, generator=torch.Generator().manual_seed(0))
    (encoded,) = nodes.VAEEncode().encode(pocket[2], pictures)
    expected = reference[2].encode(pictures.movedim(-1, 1) * 2 - 1)
    torch.testing.assert_close(encoded["samples"], expected, rtol=1e-4, atol=1e-4)
    (decoded,) = nodes.VAEDecode().decode(pocket[2], encoded)
    expected = (reference[2].decode(expected) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(decoded, expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("t", [999, 500, 3])
def test_the_denoiser_is_diffusers(pocket, reference, t):
    model = pocket[0].model
    comfy.model_management.load_models_gpu([pocket[0]])
    generator = torch.Generator().manual_seed(t)
    x, context = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 77, 32, generator=generator)
    sigma = model.model_sampling.sigma(torch.tensor(float(t))).expand(2)
    noisy = x * (sigma.view(-1, 1, 1, 1) ** 2 + 1).sqrt()
    denoised = model.apply_model(noisy, sigma, c_crossattn=context)
    found = (noisy - denoised) / sigma.view(-1, 1, 1, 1)
    expected = reference[0](x, t, context).sample
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_noise_schedule_is_diffusers(pocket, pocket_base_file):
    from diffusers import DDPMScheduler

    schedule = DDPMScheduler(**read_base(pocket_base_file).metadata["scheduler_config"])
    a = schedule.alphas_cumprod.double()
    torch.testing.assert_close(pocket[0].model.model_sampling.sigmas.double(), ((1 - a) / a).sqrt(), rtol=1e-4, atol=0)


@torch.inference_mode()
def test_stock_nodes_paint_a_picture(pocket):
    model, clip, vae = pocket
    (positive,), (negative,) = (nodes.CLIPTextEncode().encode(clip, text) for text in ("a red boat", ""))
    (latent,) = nodes.EmptyLatentImage().generate(128, 128, 1)
    (samples,) = nodes.KSampler().sample(model, 1, 2, 3.0, "euler", "normal", positive, negative, latent)
    (picture,) = nodes.VAEDecode().decode(vae, samples)
    assert picture.shape == (1, 128, 128, 3)
    assert picture.isfinite().all() and picture.std() > 0


def test_previews_use_the_pockets_own_colours(pocket, monkeypatch):
    monkeypatch.setattr(latent_preview.args, "preview_method", latent_preview.LatentPreviewMethod.Auto)
    previewer = latent_preview.get_previewer(torch.device("cpu"), pocket[0].model.latent_format)
    pixel = previewer.decode_latent_to_preview(torch.ones(1, 4, 2, 2)).getpixel((0, 0))
    # factors' column sums (.2, .1, .6) plus bias (.05, 0, -.05), from -1..1 to 0..255
    assert pixel == (159, 140, 197)


def test_latents_have_the_pockets_own_scale(pocket):
    model = pocket[0].model
    assert type(model.model_config) is Pocket
    assert model.process_latent_in(torch.ones(1)).item() == pytest.approx(0.8)


@torch.inference_mode()
def test_words_it_was_never_taught_are_named_at_the_node_and_not_in_the_log(pocket, caplog, monkeypatch):
    clip, told = pocket[1], []
    server = SimpleNamespace(send_progress_text=lambda text, node: told.append((node, text)))
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)
    with CurrentNodeContext("prompt", "7"):
        (cond,) = nodes.CLIPTextEncode().encode(clip, "a (steampunk:1.2) boat by chiaroscurist, a boat, steampunk")
    assert cond[0][1][UNKNOWN_WORDS] == ["steampunk", "by", "chiaroscurist"]
    assert told == [
        (
            "7",
            "The pocket model does not know: steampunk, by, chiaroscurist. These words are painted as nothing.",
        )
    ]
    assert "does not know 3 of a prompt's words: see the node" in caplog.text and "steampunk" not in caplog.text
    (cond,) = nodes.CLIPTextEncode().encode(clip, "a red boat")
    assert cond[0][1][UNKNOWN_WORDS] == []


def test_a_copy_for_other_devices_can_be_made(pocket):
    factory, arguments = pocket[0].cached_patcher_init
    copy = factory(*arguments, disable_dynamic=True)
    first, second = copy.model.state_dict(), pocket[0].model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_a_file_that_does_not_fit_its_configuration_is_refused(pocket_base_file, tmp_path):
    base = read_base(pocket_base_file)
    for part, name in (("unet", "conv_in.weight"), ("vae", "encoder.1.weight")):
        states = {"unet": dict(base.denoiser), "text_encoder": dict(base.text_encoder), "vae": dict(base.vae)}
        del states[part][name]
        denoiser, text, vae = states.values()
        write_base(tmp_path / "bad.safetensors", denoiser, text, vae, base.vocabulary, base.metadata)
        with pytest.raises(
            ValueError, match=r"does not hold the weights that it says .*: download it or make it again"
        ):
            load_pocket(tmp_path / "bad.safetensors")
    tensors = load_file(pocket_base_file)
    save_file(tensors, tmp_path / "other.safetensors", metadata={"format": "something"})
    with pytest.raises(ValueError, match="is no pocket base"):
        load_pocket(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_out_channels": [32, 48]}, "multiples of the first"),
        ({"norm_num_groups": 16}, "norm_num_groups 16"),
        ({"layers_per_block": [1, 2]}, r"layers_per_block \[1, 2\]"),
    ],
)
def test_a_denoiser_comfyui_cannot_build_is_refused(pocket_base_file, change, message):
    metadata = read_base(pocket_base_file).metadata
    with pytest.raises(ValueError, match=message):
        Pocket({**metadata, "unet_config": {**metadata["unet_config"], **change}})
    with pytest.raises(ValueError, match="v_prediction"):
        Pocket({**metadata, "scheduler_config": {**metadata["scheduler_config"], "prediction_type": "v_prediction"}})
