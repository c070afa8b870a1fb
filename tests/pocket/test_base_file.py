"""The pocket base's file: round trip, the stored part of the vocabulary, and what is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ppd.pocket.base_file import METADATA, TOKEN_EMBEDDING, read_base, write_base

METADATA_VALUES = {
    "unet_config": {"sample_size": 16},
    "text_config": {"vocab_size": 49408},
    "vae_config": {"latent_channels": 4, "width": 16, "fine_width": 8},
    "scheduler_config": {"beta_start": 0.00085},
    "latent_scale": 1.25,
    "latent_rgb_factors": [[0.1, 0.2, 0.3]] * 4,
    "latent_rgb_bias": [0.0, 0.0, 0.5],
    "recipe": "seed 1",
}
VOCABULARY = torch.tensor([49407, 320, 5, 49406])


def states() -> tuple[dict, dict, dict]:
    embedding = torch.arange(49408.0)[:, None].expand(-1, 3) / 64
    unet, vae = {"conv_in.weight": torch.full((2, 2), 0.5)}, {"decoder.layers.0.bias": torch.zeros(2)}
    return unet, {TOKEN_EMBEDDING.removeprefix("text_model."): embedding, "final.bias": torch.ones(3)}, vae


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "pocket_base.safetensors"
    write_base(file, *states(), VOCABULARY, METADATA_VALUES)
    return file


def test_round_trip(path):
    base = read_base(path)
    assert base.metadata == METADATA_VALUES
    assert base.vocabulary.tolist() == [5, 320, 49406, 49407]
    assert base.denoiser["conv_in.weight"].dtype == torch.float16
    assert set(base.text_encoder) == {TOKEN_EMBEDDING, "text_model.final.bias"}
    assert set(base.vae) == {"decoder.layers.0.bias"}


def test_only_rows_in_use_are_stored_and_the_others_are_zero_when_read(path):
    with safe_open(path, "pt") as file:
        assert file.get_slice(f"text_encoder.{TOKEN_EMBEDDING}").get_shape() == [4, 3]
    embedding = read_base(path).text_encoder[TOKEN_EMBEDDING]
    assert embedding.shape == (49408, 3)
    assert embedding[320].tolist() == [5.0, 5.0, 5.0]
    assert embedding.any(1).nonzero().flatten().tolist() == [5, 320, 49406, 49407]


def test_names_with_and_without_transformers_old_prefix_are_the_same_file(path, tmp_path):
    unet, text, vae = states()
    other = tmp_path / "other.safetensors"
    write_base(other, unet, {f"text_model.{name}": x for name, x in text.items()}, vae, VOCABULARY, METADATA_VALUES)
    first, second = load_file(path), load_file(other)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_vocabulary_without_start_and_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="start 49406 or end 49407"):
        write_base(tmp_path / "x.safetensors", *states(), torch.tensor([1, 49406]), METADATA_VALUES)


@pytest.mark.parametrize("name", METADATA)
def test_metadata_must_be_complete(path, tmp_path, name):
    short = {key: value for key, value in METADATA_VALUES.items() if key != name}
    with pytest.raises(ValueError, match=name):
        write_base(tmp_path / "x.safetensors", *states(), VOCABULARY, short)
    with safe_open(path, "pt") as file:
        texts = {key: value for key, value in file.metadata().items() if key != name}
    save_file(load_file(path), tmp_path / "y.safetensors", metadata=texts)
    with pytest.raises(ValueError, match=name):
        read_base(tmp_path / "y.safetensors")


def test_damaged_files_are_refused(path, tmp_path):
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        texts = file.metadata()

    def read(tensors, texts):
        save_file(tensors, tmp_path / "bad.safetensors", metadata=texts)
        return read_base(tmp_path / "bad.safetensors")

    with pytest.raises(ValueError, match="damaged metadata"):
        read(tensors, {**texts, "unet_config": "{"})
    with pytest.raises(ValueError, match=r"token embeddings \[4, 3\] for tokens \[3\] of 49408"):
        read({**tensors, "vocabulary": torch.tensor([1, 2, 3])}, texts)
    with pytest.raises(ValueError, match="incomplete pocket base"):
        read({name: x for name, x in tensors.items() if not name.startswith("vae.")}, texts)
    with pytest.raises(ValueError, match="is no pocket base"):
        read(tensors, {**texts, "format": "other"})
    with pytest.raises(ValueError, match="version"):
        read(tensors, {**texts, "version": "1"})  # had another autoencoder
    (tmp_path / "text.safetensors").write_text("not a tensor file")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        read_base(tmp_path / "text.safetensors")
