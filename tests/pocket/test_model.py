"""The pocket model: CLIP's tokens, its file, and painting that depends on prompt, seed and person alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ppd.hosts.diffusers import DiffusersHost
from ppd.pocket import model as model_module
from ppd.pocket import scenes
from ppd.pocket.adapters import keys_values
from ppd.pocket.base_file import read_base
from ppd.pocket.model import PocketModel, vocabulary_in_use
from ppd.pocket.painter import generate
from ppd.pocket.text import full_text_encoder, tokenize, unknown_words

PROMPTS = ["a quiet lake", "a red boat under the moon", "a house"]
SEEDS = [5, 6, 7]


@pytest.fixture(scope="module")
def model(pocket_base_file: Path) -> PocketModel:
    return PocketModel.load(pocket_base_file)


@pytest.fixture(scope="module")
def host(model: PocketModel) -> DiffusersHost:
    torch.manual_seed(0)
    adapter = keys_values(model, encoder="encoder", encoder_hash="hash", embedding_dim=6, end_percent=0.5)
    for layer in adapter.layers:
        torch.nn.init.normal_(layer.get_parameter("to_v_user.weight"), std=0.5)
    return DiffusersHost(model.denoiser, adapter)


def paint(model: PocketModel, prompts=PROMPTS, seeds=SEEDS, **settings) -> torch.Tensor:
    return generate(model, prompts, seeds, **{"steps": 4, **settings})


def test_tokens_are_clips_padded_with_the_end():
    ids = tokenize(["a photo of a cat", ""])
    assert ids.shape == (2, 77)
    assert ids[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (ids[0, 6:] == 49407).all()
    assert ids[1, 0] == 49406 and (ids[1, 1:] == 49407).all()


def test_tokens_are_open_clips():
    from open_clip.tokenizer import SimpleTokenizer

    prompts = [scene.caption for scene in scenes.SCENES[::20]] + ["A  Boat, at NIGHT!", "café"]
    ours, theirs = tokenize(prompts), SimpleTokenizer(context_length=77)(prompts)
    for row, expected in zip(ours, theirs, strict=True):
        words = int((expected == 49407).nonzero()[0]) + 1
        assert torch.equal(row[:words], expected[:words])
        assert (row[words:] == 49407).all()


@pytest.mark.comfyui
def test_tokens_are_transformers_for_stable_diffusion(comfyui_path: Path):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(comfyui_path / "comfy" / "sd1_tokenizer")
    prompts = [*scenes.HELD_OUT_CAPTIONS, "", "flowers " * 100]
    theirs = tokenizer(prompts, padding="max_length", max_length=77, truncation=True).input_ids
    assert tokenize(prompts).tolist() == theirs


def test_a_long_prompt_is_cut():
    ids = tokenize(["flowers " * 100])[0]
    assert ids[0] == 49406 and ids[-1] == 49407
    assert (ids[1:-1] == ids[1]).all()


def test_the_vocabulary_is_that_of_the_captions():
    vocabulary = vocabulary_in_use()
    assert {49406, 49407} <= set(vocabulary.tolist())
    assert 20 < len(vocabulary) < 60
    assert all(unknown_words(scene.caption, vocabulary) == [] for scene in scenes.SCENES)


def test_unknown_words_are_named():
    assert unknown_words("a dragon, by a lake. under the spaceship", vocabulary_in_use()) == ["dragon", "spaceship"]
    assert unknown_words("", vocabulary_in_use()) == []


def test_the_file_gives_the_same_model_back(model, pocket_base_file, tmp_path, monkeypatch):
    metadata = read_base(pocket_base_file).metadata
    for name, config in (("config", "unet_config"), ("text_config", "text_config")):
        monkeypatch.setattr(PocketModel, name, metadata[config])
    path = tmp_path / "again.safetensors"
    model.save(path, metadata["vae_config"], metadata["latent_rgb_factors"], metadata["latent_rgb_bias"])
    again = PocketModel.load(path)
    assert again.latent_scale == model.latent_scale == 0.8
    assert torch.equal(again.vocabulary, model.vocabulary)
    for part in ("denoiser", "text_encoder", "vae"):
        ours, theirs = (getattr(one, part).state_dict() for one in (model, again))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), part
    assert read_base(path).metadata == metadata
    assert torch.equal(paint(again), paint(model))


def test_the_vocabulary_is_expanded_with_zeros(model):
    table = model.text_encoder.get_input_embeddings().weight
    assert table.shape == (49408, 32)
    used = torch.zeros(49408, dtype=torch.bool)
    used[model.vocabulary] = True
    assert table[used].abs().sum(1).min() > 0
    assert not table[~used].any()


def test_loaded_models_are_frozen(model):
    for part in (model.denoiser, model.text_encoder, model.vae):
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())


def test_the_small_table_of_training_is_the_full_text_encoder(monkeypatch):
    """Training knows only the words in use; the shipped text encoder must say the same of a caption."""
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setattr(model_module, "TEXT_CONFIG", model_module.TEXT_CONFIG | small)
    unet = {"block_out_channels": (32, 32), "cross_attention_dim": 16}
    monkeypatch.setattr(model_module, "UNET_CONFIG", model_module.UNET_CONFIG | unet)
    trained = model_module._Base().eval()
    tokens = tokenize(["", *(scene.caption for scene in scenes.SCENES[::40])])
    with torch.no_grad():
        ours = trained.text_encoder(torch.searchsorted(vocabulary_in_use(), tokens)).last_hidden_state
        whole = full_text_encoder(trained.text_encoder, model_module.TEXT_CONFIG, vocabulary_in_use())
        full = whole.eval()(tokens).last_hidden_state
    torch.testing.assert_close(ours, full, rtol=0, atol=1e-6)


def test_texts_are_those_of_their_prompts(model):
    states = model.text(["a house", "", "a house", "a boat"])
    assert states.shape == (4, 77, 32)
    assert torch.equal(states[0], states[2]) and not torch.equal(states[0], states[3])
    torch.testing.assert_close(states[1:2], model.text([""]), rtol=0, atol=1e-6)


def test_painting_is_determined_by_prompt_and_seed(model):
    latents = paint(model)
    assert latents.shape == (3, 4, 16, 16) and latents.dtype == torch.float32
    assert torch.equal(latents, paint(model))
    assert not torch.equal(latents[0], paint(model, seeds=[8, 6, 7])[0])
    assert not torch.equal(latents[0], paint(model, prompts=["a hill", *PROMPTS[1:]])[0])


@pytest.mark.parametrize("batch", [1, 2])
def test_a_picture_does_not_depend_on_its_batch(model, batch):
    """Matrix products round with the batch's shape; what is left is small."""
    together, apart = paint(model), paint(model, batch=batch)
    error = (together - apart).abs().max() / together.std()
    assert error < 1e-3


def test_the_null_user_is_the_base_bit_for_bit(model, host):
    base = paint(model)
    assert torch.equal(paint(model, host=host, u=torch.zeros(3, 1, 6)), base)
    assert torch.equal(paint(model, host=host, u=torch.ones(3, 1, 6), strength=0.0), base)
    assert torch.equal(paint(model, host=host), base)


def test_each_row_has_its_own_user(model, host):
    u = torch.randn(3, 1, 6, generator=torch.Generator().manual_seed(0))
    u[1] = 0
    base, personal = paint(model), paint(model, host=host, u=u)
    assert torch.equal(personal[1], base[1])
    for row in (0, 2):
        assert (personal[row] - base[row]).abs().max() > 0.01
    everybody_the_first = paint(model, host=host, u=u[:1])
    assert torch.equal(everybody_the_first[0], personal[0])
    assert not torch.equal(everybody_the_first[2], personal[2])
    assert torch.equal(paint(model), base)  # nothing stays patched


def test_progress_counts_every_picture(model):
    seen: list[int] = []
    paint(model, batch=2, on_batch=seen.append)
    assert seen == [2, 1]


def test_pictures_are_in_range(model):
    pictures = model.decode(paint(model)[:1])
    assert pictures.shape == (1, 3, 128, 128)
    assert 0 <= pictures.min() and pictures.max() <= 1
    assert np.isfinite(pictures.numpy()).all()
