"""The pixel statistics on pictures whose values can be worked out, and the whitening."""

from __future__ import annotations

import pytest
import torch

from ppd.pocket.scenes import weave
from ppd.pocket.statistics import CLIP, STATISTICS, Whitening, picture_statistics, reward_statistics


def plain(r: float, g: float, b: float) -> torch.Tensor:
    return torch.tensor((r, g, b), dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 128, 128).clone()


def statistics(picture: torch.Tensor) -> dict[str, float]:
    return dict(zip(STATISTICS, picture_statistics(picture)[0].tolist(), strict=True))


@pytest.mark.parametrize(
    ("color", "warmth", "saturation", "brightness"),
    [
        ((1, 0, 0), 1.0, 1.0, 0.299),
        ((0, 1, 0), 0.0, 1.0, 0.587),
        ((0, 0, 1), -1.0, 1.0, 0.114),
        ((0.5, 0.5, 0.5), 0.0, 0.0, 0.5),
        ((0.8, 0.6, 0.4), 0.4, 0.4, 0.637),
    ],
)
def test_a_plain_color(color, warmth, saturation, brightness):
    expected = [warmth, saturation, brightness, 0.0, 0.0, 0.0]
    assert list(statistics(plain(*color)).values()) == pytest.approx(expected, abs=1e-6)


def test_contrast_of_half_black_half_white():
    picture = plain(0, 0, 0)
    picture[..., 64:] = 1
    assert statistics(picture)["contrast"] == pytest.approx(0.5 * (256 / 255) ** 0.5)  # of a sample of 256 cells
    assert statistics(picture)["brightness"] == pytest.approx(0.5)
    assert statistics(0.5 + 0.1 * (picture - 0.5))["contrast"] == pytest.approx(0.0501, abs=1e-4)


def test_outline_is_the_darkness_of_thin_lines():
    picture = plain(1, 1, 1)
    picture[:, :, 8::16] = 0
    assert statistics(picture)["outline"] == pytest.approx(0.9 * 8 / 128)  # .1 of darkness is not counted
    broad = plain(1, 1, 1)
    broad[:, :, 32:64] = 0  # a dark area is no line
    assert statistics(broad)["outline"] == pytest.approx(0.0, abs=1e-6)
    light = plain(0.5, 0.5, 0.5)
    light[:, :, 8::16] = 1  # nor are light lines
    assert statistics(light)["outline"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("amplitude", [0.0, 0.03, 0.075])
def test_texture_is_the_amplitude_of_the_weave_alone(amplitude):
    found = statistics(plain(0.5, 0.5, 0.5) + amplitude * torch.from_numpy(weave()))
    assert found["texture"] == pytest.approx(amplitude, abs=1e-6)
    assert found["outline"] == pytest.approx(0.0, abs=1e-6)
    assert found["brightness"] == pytest.approx(0.5, abs=1e-6)


def test_a_batch_is_its_pictures():
    pictures = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    one_by_one = torch.cat([picture_statistics(picture[None]) for picture in pictures])
    torch.testing.assert_close(picture_statistics(pictures), one_by_one)


def correlated(count: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mix = torch.eye(6) + 0.3 * torch.randn(6, 6, generator=generator)
    scale = torch.tensor([0.1, 0.09, 0.14, 0.02, 0.007, 0.02])
    return (torch.randn(count, 6, generator=generator) @ mix) * scale + torch.arange(6.0)


def test_whitening_leaves_unit_variances_and_no_correlation():
    x = correlated()
    scores = Whitening.fit(x).scores(x)
    torch.testing.assert_close(torch.cov(scores.T), torch.eye(6), rtol=0, atol=2e-3)
    torch.testing.assert_close(scores.mean(0), torch.zeros(6), rtol=0, atol=2e-3)


def test_whitening_keeps_each_statistic_itself():
    """ZCA: a whitened statistic correlates with the raw one more than with any other, and in its direction."""
    x = correlated()
    both = torch.corrcoef(torch.cat([x, Whitening.fit(x).scores(x)], 1).T)[:6, 6:]
    assert (both.argmax(1) == torch.arange(6)).all()
    assert (both.diagonal() > 0.8).all()


def test_whitening_of_uncorrelated_statistics_only_scales():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)).T)
    scale = torch.tensor([1.0, 2.0, 4.0, 0.5, 0.25, 0.1])
    torch.testing.assert_close(Whitening.fit(x.float() * scale).matrix, torch.diag(1 / scale), rtol=1e-4, atol=1e-4)


def test_rewards_see_clipped_scores():
    whitening = Whitening(torch.ones(6), torch.eye(6))
    raw = torch.tensor([[1.0, 2.0, 3.5, -4.0, 2.9, 1.0]])
    torch.testing.assert_close(whitening.scores(raw), torch.tensor([[0.0, 1.0, 2.5, -5.0, 1.9, 0.0]]))
    expected = torch.tensor([[0.0, 1.0, CLIP, -CLIP, 1.9, 0.0]])
    torch.testing.assert_close(reward_statistics(whitening, raw), expected)
