"""IP-Adapters fitted to a taste encoder: what they see in pictures, and how the mean picture moves with taste."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ppd.adapters.ip_adapter import load_ip_adapter
from ppd.encoders.encoder import PosteriorEncoder
from ppd.encoders.features import PictureFeatures
from ppd.encoders.image_prompt import FEWEST, ImagePromptTower, fit_directions, fit_to_taste
from ppd.encoders.population import PopulationPrior, fit_whitening
from ppd.pictures import Picture


def draw(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


class Mean(nn.Module):
    """A vision model of random weights that sees the mean colour of each quarter of a picture."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embeds, self.states = nn.Linear(12, 1024), nn.Linear(3, 1280)
        self.looked = 0

    def forward(self, x):
        self.looked += len(x)
        quarters = nn.functional.adaptive_avg_pool2d(x, 2)
        return self.embeds(quarters.flatten(1)), self.states(quarters.flatten(2).mT)


def small(pixels):
    return nn.functional.interpolate(pixels.movedim(-1, 1), size=(224, 224))


class Quarters:
    """A taste encoder's tower: the mean colours of a picture's quarters."""

    name, weight_hash, dim, batch = "quarters", "7" * 64, 12, 8

    def prepare(self, picture):
        return small(torch.from_numpy(np.array(picture.resize((2, 2)))).float()[None] / 255)[0]

    def features(self, prepared):
        return nn.functional.adaptive_avg_pool2d(torch.stack(list(prepared)), 2).flatten(1)


@pytest.fixture(scope="module", params=["plain", "plus"])
def published(request, ip_adapter_file):
    """An SD1.5 IP-Adapter of random weights."""
    return load_ip_adapter(ip_adapter_file(request.param, [8] * 16, 768))


@pytest.fixture(scope="module")
def pictures():
    pixels = [draw(2, 2, 3, seed=seed).sigmoid().mul(255).byte().numpy() for seed in range(80)]
    return [Picture.from_image(Image.fromarray(x).resize((32, 32), Image.Resampling.NEAREST)) for x in pixels]


@pytest.fixture(scope="module")
def encoder(pictures):
    features = PictureFeatures(Quarters())
    center, basis = fit_whitening(features.picture_features(pictures), dims=5)
    prior = PopulationPrior(torch.zeros(5), torch.eye(5), center, basis, "quarters", "7" * 64, noise=2.0)
    return PosteriorEncoder(features, prior)


def seen_by(published, cache_dir=None):
    visual = Mean()
    return PictureFeatures(ImagePromptTower(visual, visual, small, published), cache_dir=cache_dir)


def test_directions_are_how_the_tilted_mean_moves():
    """Weighing pictures by exp(u . phi) moves the mean of any of their features by Cov(phi, rows) u, for a small u."""
    phi, rows, u = draw(400, 3, seed=1), draw(400, 7, seed=2), draw(3, seed=3) * 0.01
    rows = rows + phi @ draw(3, 7, seed=4)
    center, directions = fit_directions(phi, rows)
    tilted = torch.softmax(phi @ u, 0) @ rows
    torch.testing.assert_close(center + u @ directions, tilted, rtol=0, atol=5e-4)
    assert (tilted - center).abs().max() > 0.01


def test_of_the_towers_own_features_they_are_the_pseudoinverse_of_the_whitening():
    features = draw(300, 9, seed=5) @ draw(9, 9, seed=6)
    center, basis = fit_whitening(features, dims=4)
    found, directions = fit_directions((features - center) @ basis, features)
    torch.testing.assert_close(found, center, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(directions, torch.linalg.pinv(basis), rtol=1e-3, atol=1e-3)


def test_an_adapter_of_the_encoders_u(published, encoder, pictures):
    seen = seen_by(published)
    adapter = fit_to_taste(published, encoder, seen, pictures)
    assert (adapter.config.encoder, adapter.config.encoder_hash) == ("quarters", encoder.weight_hash)
    assert adapter.config.embedding_dim == 5 and adapter.config.family == "sd15"
    adapter.config.check_embedding(encoder.encode([]))
    rows, phi = seen.picture_features(pictures), encoder.prior.whiten(encoder.features.picture_features(pictures))
    shape = published.seen_shape
    torch.testing.assert_close(adapter.center, rows.mean(0).view(shape))
    wanted = phi.T @ (rows - rows.mean(0)) / 79 / encoder.prior.noise
    torch.testing.assert_close(adapter.directions, wanted.view(5, *shape), rtol=1e-3, atol=1e-5)
    assert torch.equal(adapter.start, adapter.center)


def test_own_pictures_are_the_middle(published, encoder, pictures):
    seen = seen_by(published)
    adapter = fit_to_taste(published, encoder, seen, pictures, own=pictures[:3])
    own = seen.picture_features(pictures[:3]).mean(0).view(published.seen_shape)
    torch.testing.assert_close(adapter.start, own)
    assert not torch.allclose(adapter.start, adapter.center)


def test_pictures_are_looked_at_once_and_progress_tells(published, encoder, pictures, tmp_path):
    told = []
    first = seen_by(published, tmp_path)
    fit_to_taste(published, encoder, first, pictures, progress=lambda *done: told.append(done))
    assert first.tower.visual.looked == 80 and told[-1][1] == 160 and told == sorted(told)
    again = seen_by(published, tmp_path)
    fit_to_taste(published, encoder, again, pictures)
    assert again.tower.visual.looked == 0


def test_too_few_and_unreadable_pictures(published, encoder, pictures, tmp_path):
    lost = [Picture(tmp_path / f"{number}.png") for number in range(10)]
    adapter = fit_to_taste(published, encoder, seen_by(published), [*pictures, *lost])
    torch.testing.assert_close(adapter.center, fit_to_taste(published, encoder, seen_by(published), pictures).center)
    with pytest.raises(ValueError, match=f"takes at least {FEWEST} pictures, got 31: choose a folder with more"):
        fit_to_taste(published, encoder, seen_by(published), [*pictures[:31], *lost])


def test_other_vision_models_are_refused(published, pictures):
    for widths in ((768, 1280), (1024, 1024)):  # another CLIP; DINOv2-large, whose embeddings are as wide as ViT-H-14's

        def look(x, widths=widths):
            return x.new_zeros(len(x), widths[0]), x.new_zeros(len(x), 5, widths[1])

        tower = ImagePromptTower(Mean(), look, small, published)
        with pytest.raises(ValueError, match=rf"{widths[0]} and {widths[1]} wide, expected ViT-H-14's 1024 and 1280"):
            PictureFeatures(tower).picture_features(pictures[:1])
