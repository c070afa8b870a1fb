"""The pocket autoencoder: shapes, what a cell of its latents can paint, and its training's loss on literal numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ppd.pocket.autoencoder import PocketAutoencoder, decode_latents, encode_pictures
from ppd.pocket.autoencoder_training import build_autoencoder, reconstruction_loss, refine_decoder, tile_error
from ppd.pocket.data import PictureSet
from ppd.pocket.scenes import weave

SMALL: dict[str, Any] = {"latent_channels": 4, "width": 8, "fine_width": 8}


@pytest.fixture
def vae() -> PocketAutoencoder:
    torch.manual_seed(0)
    return PocketAutoencoder(**SMALL)


def test_latents_are_eight_times_smaller(vae):
    latents = vae.encode(torch.zeros(2, 3, 64, 40))
    assert latents.shape == (2, 4, 8, 5)
    assert vae.decode(latents).shape == (2, 3, 64, 40)


def test_equal_latents_paint_pixels_that_differ(vae):
    """Inside the border every cell is the same, and its pixels are not: it can hold a weave of the grid's period."""
    with torch.no_grad():
        picture = vae.decode(torch.ones(1, 4, 36, 36))
    cells = picture[..., 128:160, 128:160].unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    torch.testing.assert_close(cells[0, :, 0, 0], cells[0, :, 1, 2], rtol=0, atol=1e-5)
    assert cells[0, 0, 0, 0].std() > 1e-3


def test_it_learns_the_weave(vae):
    """Pictures that differ in nothing but the weave's strength, told apart and painted after 150 steps."""
    pattern = torch.as_tensor(weave(32))
    strengths = torch.tensor([0.0, 0.05, 0.1]).view(3, 1, 1, 1)
    pictures = (0.5 + strengths * pattern).repeat(1, 3, 1, 1)
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    for _ in range(150):
        decoded = vae.decode(vae.encode(pictures * 2 - 1)) / 2 + 0.5
        loss = (decoded - pictures).square().mean() + 4 * tile_error(decoded - pictures)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = ((decoded - 0.5) * pattern).mean((1, 2, 3)) / pattern.square().mean()
    assert found.tolist() == pytest.approx([0.0, 0.05, 0.1], abs=0.015)


def test_pictures_and_latents_go_in_batches(vae, monkeypatch):
    monkeypatch.setattr("ppd.precision.has_bfloat16", lambda device: False)  # whose rounding differs between CPUs
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    latents = encode_pictures(vae, pictures, batch=2)
    with torch.no_grad():
        whole = vae.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1)
        pictured = (vae.decode(whole) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(latents, whole, rtol=0, atol=1e-5)
    decoded = decode_latents(vae, latents, batch=2)
    assert decoded.shape == (5, 3, 32, 32) and 0 <= decoded.min() and decoded.max() <= 1
    torch.testing.assert_close(decoded, pictured, rtol=0, atol=1e-5)


def test_the_tile_error_sees_what_fills_the_picture():
    assert tile_error(torch.full((1, 3, 16, 16), 0.1)).item() == pytest.approx(0.01)
    assert tile_error(torch.as_tensor(weave(16))[None, None]).item() == pytest.approx(0.25)  # sin^2 sin^2
    alternating = torch.ones(1, 1, 16, 16)
    alternating[..., 8:] = -1
    assert tile_error(alternating).item() == 0.0


def test_a_perfect_reconstruction_costs_only_the_walls_share():
    class Perfect(torch.nn.Module):
        def encode(self, x):
            self.x = x
            return torch.full((len(x), 4, 2, 2), 3.0)  # one above the limit: a wall of 1

        def decode(self, z):
            return self.x + 1e-6

    pictures = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    perfect: Any = Perfect()
    loss, figures = reconstruction_loss(perfect, pictures, torch.ones(6))
    assert loss.item() == pytest.approx(1e-3, rel=1e-3)
    assert figures["shift"] == pytest.approx(0, abs=1e-5)


def test_blocks_start_as_the_identity():
    block = build_autoencoder().encoder[2]
    x = torch.randn(1, 128, 4, 4)
    assert torch.equal(block(x), x)


def test_refining_leaves_the_latents_as_they_are(tmp_path):
    data = PictureSet(np.zeros((8, 128, 128, 3), np.uint8), np.zeros(8, np.int64), np.zeros((8, 7), np.float32))
    data.pictures[:] = np.random.default_rng(0).integers(0, 256, data.pictures.shape)
    torch.manual_seed(0)
    vae = PocketAutoencoder(**SMALL)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    after = refine_decoder(vae, data, tmp_path / "decoder.pt", steps=2).state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith("encoder.")}
