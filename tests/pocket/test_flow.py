"""Pocket flow: words for looks in its captions, its class in both hosts, one picture from both."""

from __future__ import annotations

import math
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from ppd.pocket import autoencoder, flow, painter, scenes
from ppd.pocket.adapters import low_rank
from ppd.pocket.autoencoder import PocketAutoencoder
from ppd.pocket.data import PictureSet
from ppd.pocket.flow import FLOW_CONFIG, FLOW_TEXT_CONFIG, FlowModel, flow_vocabulary, velocity
from ppd.pocket.flow_training import FlowBase, draw_prompts, train_flow
from ppd.pocket.look_words import LOOK_WORDS, NAMED, styled_caption
from ppd.pocket.model import PocketModel
from ppd.pocket.painter import GUIDANCE, generate
from ppd.pocket.text import full_text_encoder, tokenize, unknown_words
from ppd.pocket.turbo import Lora, train_turbo, with_turbo
from ppd.training.adapter import train_adapter
from ppd.training.picks import QueryPicks
from ppd.training.settings import Objective

if find_spec("comfy"):
    import comfy.model_management
    import nodes

    from ppd.pocket.comfyui import PocketFlow, load_pocket, load_turbo

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
SMALL = {"num_layers": 2, "num_attention_heads": 2, "joint_attention_dim": 32}
SMALL_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
VAE: dict[str, Any] = {"latent_channels": 4, "width": 16, "fine_width": 8}
PROMPT = "a boat by a lake, warm, rough paper"


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        for config, values in ((FLOW_CONFIG, SMALL), (FLOW_TEXT_CONFIG, SMALL_TEXT)):
            for name, value in values.items():
                patch.setitem(config, name, value)
        yield


@pytest.fixture(scope="module")
def path(small, tmp_path_factory):
    """A small pocket flow whose weights are random everywhere."""
    torch.manual_seed(0)
    base = FlowBase()
    for parameter in base.transformer.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.1)
    text = full_text_encoder(base.text_encoder, FLOW_TEXT_CONFIG, flow_vocabulary())
    model = FlowModel(base.transformer, text, PocketAutoencoder(**VAE), 0.8, flow_vocabulary())
    file = tmp_path_factory.mktemp("flow") / "pocket_flow_base.safetensors"
    model.save(file, VAE, [[0.2, 0.0, 0.1]] * 4, [0.05, 0.0, -0.05])
    return file


@pytest.fixture(scope="module")
def model(path):
    return FlowModel.load(path)


def test_captions_name_looks_that_are_true_of_the_picture():
    rng = np.random.default_rng(0)
    owner = {word: (name, end) for name, ends in LOOK_WORDS.items() for end, words in enumerate(ends) for word in words}
    counts = np.zeros(4)
    for scene in scenes.SCENES * 4:
        style = scenes.random_style(rng)
        caption, *looks = styled_caption(scene.caption, style, rng).split(", ")
        assert caption == scene.caption
        counts[len(looks)] += 1
        for word in looks:
            name, end = owner[word]
            assert style[name] > NAMED if end else style[name] < -NAMED
        assert len({owner[word][0] for word in looks}) == len(looks)
    assert counts[0] / counts.sum() == pytest.approx(0.5, abs=0.05)
    assert (counts > 50).all()


def test_every_word_is_known_and_fits():
    longest = max(
        (scene.caption for scene in scenes.SCENES), key=lambda text: len(unknown_words(text, torch.tensor([])))
    )
    looks = [
        max(words, key=lambda word: len(unknown_words(word, torch.tensor([])))) for _, words in LOOK_WORDS.values()
    ]
    for text in (longest, *looks, PROMPT):
        assert unknown_words(text, flow_vocabulary()) == []
    ids = tokenize([", ".join([longest, *looks[:3]])], flow.FLOW_CONTEXT)[0]
    assert ids[-1] == 49407 and (ids == 49407).sum() >= 2
    assert unknown_words("a dragon, icy", flow_vocabulary()) == ["dragon"]


def test_a_tenth_of_the_prompts_is_empty():
    data = PictureSet(np.zeros((2000, 1)), np.arange(2000) % 249, np.zeros((2000, 7), np.float32))
    prompts = draw_prompts(data, np.arange(2000), np.random.default_rng(0))
    assert prompts.count("") == pytest.approx(200, abs=45)
    assert {p for p in prompts if p} <= {scene.caption for scene in scenes.SCENES}  # no look of a medium style


def test_plain_attention_of_training_is_the_classes(model):
    x, context = torch.randn(3, 4, 16, 16), torch.randn(3, 32, 32)
    t = torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        expected = velocity(model.denoiser, x, t, context)
        before = model.denoiser.attn_processors
        with model.plain_attention():
            found = velocity(model.denoiser, x, t, context)
    assert model.denoiser.attn_processors == before
    torch.testing.assert_close(found, expected, **CLOSE)


def test_flow_is_a_straight_line_and_its_target_the_slope(model):
    x0, noise, t = torch.randn(3, 2, 4, 4, 4).unbind(0)[0], torch.randn(2, 4, 4, 4), torch.tensor([250.0, 1000.0])
    noised = model.noised(x0, noise, t)
    torch.testing.assert_close(noised[0], 0.75 * x0[0] + 0.25 * noise[0])
    torch.testing.assert_close(noised[1], noise[1])
    step = model.noised(x0, noise, t - 100) - noised
    torch.testing.assert_close(step, -0.1 * model.target(x0, noise, t))


def test_timesteps_are_even_over_the_noisy_half_of_the_shifted_schedule(model):
    t = model.draw_timesteps(np.random.default_rng(0), 4000, 0.5) / 1000
    percent = 1 - t / (2 - t)  # of sigma = 2 (1 - p) / (2 - p)
    assert 0 <= percent.min() and percent.max() <= 0.5
    assert percent.mean().item() == pytest.approx(0.25, abs=0.01)


def test_an_adapter_acts_on_the_first_half_of_the_steps(model):
    """Of even steps on the schedule of this world, which is not Qwen-Image's own."""
    adapter = low_rank(model, encoder="eyes", encoder_hash="0", embedding_dim=3, end_percent=0.5)
    for site in adapter.parts():
        torch.nn.init.normal_(site.up)
    host, u = model.host(adapter), torch.ones(1, 1, 3)
    x, context = torch.randn(1, 4, 16, 16), model.text([PROMPT])
    moved = []
    with torch.no_grad():
        for t in model.scheduler(4).timesteps:
            plain = model.predict(x, t, context)
            with host.personalized(u):
                moved.append(not torch.equal(model.predict(x, t, context), plain))
    assert moved == [True, True, True, False]  # the window's end is the third step's


def test_an_adapter_is_trained_on_it(model, tmp_path):
    rng = np.random.default_rng(0)
    person = np.arange(20) % 2
    latents = torch.randn(8, 4, 16, 16) + torch.tensor([2.0] * 4 + [-2.0] * 4).view(-1, 1, 1, 1)
    first, second = rng.integers(4, size=20), 4 + rng.integers(4, size=20)
    picks = QueryPicks(
        latents,
        person=person,
        chosen=np.where(person == 0, first, second),
        rejected=np.where(person == 0, second, first),
        caption=rng.integers(20, size=20),
        embeddings=torch.tensor([[[1.0, 0.5, -0.5], [-1.0, -0.5, 0.5]]]),
        population=torch.zeros(3),
        prompts=tuple(scene.caption for scene in scenes.SCENES[:20]),
    )
    adapter = low_rank(model, encoder="eyes", encoder_hash="0", embedding_dim=3, end_percent=0.5)
    options: dict[str, Any] = {
        "steps": 20,
        "objective": Objective(beta=600.0),
        "seed": 0,
        "batch": 8,
        "learning_rate": 1e-2,
    }
    trained = train_adapter(model, adapter, picks, tmp_path / "a.pt", **options)
    assert trained.config.family == "qwen_image" and trained.config.training["steps"] == 20
    x, t, context = latents[:1] * 0.2, torch.tensor([900.0]), model.text([PROMPT])
    with torch.no_grad():
        found = []
        for sign in (1.0, -1.0):
            with model.host(trained).personalized(sign * picks.embeddings[:, :1]):
                found.append((x - 0.9 * model.predict(x, t, context)).mean().item())  # the picture it goes to
    assert found[0] > found[1] + 0.01


def test_a_step_of_the_scheduler_goes_along_the_velocity(model):
    scheduler = model.scheduler(4)
    s = torch.linspace(1, 0, 5)
    sigmas = 2 * s / (1 + s)
    torch.testing.assert_close(scheduler.sigmas, sigmas)
    torch.testing.assert_close(scheduler.timesteps, 1000 * sigmas[:-1])
    x, v = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    moved = scheduler.step(v, scheduler.timesteps[0], x).prev_sample
    torch.testing.assert_close(moved, x + (sigmas[1] - sigmas[0]) * v)


def test_training_learns_the_captions_and_resumes(tmp_path):
    """Latents that are 1 for captions of lakes and -1 elsewhere: what the prompt says decides where the flow goes."""
    captions = np.random.default_rng(0).integers(249, size=300)
    lake = torch.tensor([scenes.SCENES[i].setting == "lake" for i in captions]).float() * 2 - 1
    latents = lake.view(-1, 1, 1, 1).expand(-1, 4, 4, 4).contiguous()
    data = PictureSet(np.zeros((300, 1)), captions, np.zeros((300, 7), np.float32))
    denoiser, text, vocabulary = train_flow(latents, data, tmp_path / "base.pt", 220, batch=8)
    again, *_ = train_flow(latents, data, tmp_path / "base.pt", 220, batch=8)
    assert all(torch.equal(a, b) for a, b in zip(denoiser.parameters(), again.parameters(), strict=True))
    model = FlowModel(denoiser, text.eval(), PocketAutoencoder(**VAE), 1.0, vocabulary)
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        context = model.text(["a house by a lake", "a house on a meadow"])
        end = noise - model.predict(noise, torch.tensor(1000.0), context)
    assert end[0].mean() - end[1].mean() > 0.3


def test_the_turbo_learns_to_go_where_the_guided_base_goes(model, path, tmp_path):
    lora = train_turbo(model, tmp_path / "turbo.pt", 20, batch=2)
    lora.save(tmp_path / "turbo.safetensors")
    turbo = with_turbo(FlowModel.load(path), tmp_path / "turbo.safetensors")
    prompts, seeds = [PROMPT, "flowers on a meadow"], [1, 2]
    taught = generate(model, prompts, seeds, guidance=GUIDANCE, steps=12)
    plain, learned = (generate(one, prompts, seeds, guidance=1.0, steps=4) for one in (model, turbo))
    assert (learned - taught).square().mean() < 0.95 * (plain - taught).square().mean()


@pytest.mark.comfyui
@torch.inference_mode()
def test_the_stock_loader_of_loras_loads_the_turbo(model, path, tmp_path):
    """What ComfyUI's denoiser says with it is what the merged one says in diffusers."""
    lora = Lora(model.denoiser)
    for up in lora.up:
        torch.nn.init.normal_(up, 0, 0.1)
    lora.save(tmp_path / "turbo.safetensors")
    turbo = with_turbo(FlowModel.load(path), tmp_path / "turbo.safetensors")
    patcher, _, _ = load_turbo(path, tmp_path / "turbo.safetensors")
    assert len(patcher.patches) == len(lora.names) == 2 * 12  # layers of two blocks, without the prompt's MLPs
    comfy.model_management.load_models_gpu([patcher])
    x, context = torch.randn(2, 4, 1, 16, 16), torch.randn(2, 32, 32)
    sigma = torch.tensor([0.5, 0.9])
    found = (x - patcher.model.apply_model(x, sigma, c_crossattn=context)) / sigma.view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(found[:, :, 0], velocity(turbo.denoiser, x[:, :, 0], sigma, context), **CLOSE)


def test_a_base_of_the_other_kind_is_refused(path, pocket_base_file):
    with pytest.raises(ValueError, match="holds a transformer, expected a unet"):
        PocketModel.load(path)
    with pytest.raises(ValueError, match="holds a unet, expected a transformer"):
        FlowModel.load(pocket_base_file)


@pytest.mark.comfyui
@torch.inference_mode()
def test_the_text_encoder_is_transformers(path, model):
    _, clip, _ = load_pocket(path)
    for prompt in (PROMPT, ""):
        (cond,) = nodes.CLIPTextEncode().encode(clip, prompt)
        assert cond[0][0].shape == (1, 32, 32)
        torch.testing.assert_close(cond[0][0], model.text([prompt]), rtol=1e-4, atol=1e-5)


@pytest.mark.comfyui
@torch.inference_mode()
def test_the_same_picture_in_both_hosts(path, model, monkeypatch):
    """Four steps of Euler at cfg 3 by the stock nodes, from the noise of diffusers' side: the same latents."""
    for module in (painter, autoencoder):
        monkeypatch.setattr(module, "autocast", lambda device: nullcontext())
    patcher, clip, vae = load_pocket(path)
    assert type(patcher.model.model_config) is PocketFlow
    assert patcher.model.model_sampling.shift == pytest.approx(math.log(2))
    (positive,), (negative,) = (nodes.CLIPTextEncode().encode(clip, text) for text in (PROMPT, ""))
    (latent,) = nodes.EmptyLatentImage().generate(128, 128, 1)
    (samples,) = nodes.KSampler().sample(patcher, 7, 4, 3.0, "euler", "simple", positive, negative, latent)
    found = samples["samples"]
    assert found.shape == (1, 4, 1, 16, 16)
    expected = generate(model, [PROMPT], [7], guidance=3.0, steps=4)
    torch.testing.assert_close(found[:, :, 0] * 0.8, expected, **CLOSE)
    (picture,) = nodes.VAEDecode().decode(vae, samples)
    torch.testing.assert_close(picture.movedim(-1, 1), model.decode(expected), **CLOSE)


@pytest.mark.comfyui
@torch.inference_mode()
def test_stock_nodes_change_a_picture_that_is_there(path):
    """Image to image, and inpainting, in which what is not masked stays."""
    patcher, clip, vae = load_pocket(path)
    (positive,) = nodes.CLIPTextEncode().encode(clip, PROMPT)
    pixels = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0))
    (latent,) = nodes.VAEEncode().encode(vae, pixels)
    mask = torch.zeros(1, 128, 128)
    mask[:, :64] = 1
    (masked,) = nodes.SetLatentNoiseMask().set_mask(latent, mask)
    for sampler in ("euler_ancestral", "dpmpp_2m", "uni_pc"):
        (out,) = nodes.KSampler().sample(patcher, 1, 3, 2.0, sampler, "normal", positive, positive, masked, denoise=0.6)
        change = (out["samples"].squeeze(2) - latent["samples"]).abs()
        assert change[:, :, 10:].max() < 0.01 and change[:, :, :6].mean() > 0.05, sampler
