"""User embeddings for image adapters: weights of pairs against their definition, both sides, both sources of states."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from scipy.optimize import minimize

from ppd.encoders.features import PictureFeatures
from ppd.encoders.image_prompt import TASTE_SCALE, ImagePromptTower, encode_image_prompt, weigh
from ppd.encoders.towers.open_clip import OpenClipTower, _build_tower
from ppd.ip_adapter import load_ip_adapter
from ppd.pairs import PreferencePair
from ppd.pictures import Picture

TOWER = {"embed_dim": 1024, "vision_cfg": {"layers": 3, "width": 1280, "head_width": 80, "patch_size": 56}}
TOWER["vision_cfg"]["image_size"] = 224


def draw(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.fixture(scope="module")
def tower():
    """ViT-H-14's widths with three layers and sixteen patches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        visual = _build_tower(TOWER)
    return OpenClipTower(visual, name="ViT-H-14/random", size=224, mean=[0.5] * 3, std=[0.25] * 3)


@pytest.fixture(scope="module", params=["plain", "plus"])
def adapter(request, ip_adapter_file):
    """An SD1.5 IP-Adapter of random weights."""
    return load_ip_adapter(ip_adapter_file(request.param, [8] * 16, 768))


def picture(seed):
    pixels = (draw(224, 224, 3, seed=seed) * 60 + 128).clamp(0, 255).byte().numpy()
    return Picture.from_image(Image.fromarray(pixels))


@pytest.fixture(scope="module")
def pairs():
    return [PreferencePair("a lake", picture(2 * i), picture(2 * i + 1), tie=i == 2, id=f"pair {i}") for i in range(4)]


def test_weights_are_dual_coefficients_of_the_posterior_mean():
    chosen, rejected = draw(5, 12, seed=1), draw(5, 12, seed=2)
    outcomes = torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0])
    unit = torch.nn.functional.normalize
    d = (unit(chosen.double(), dim=1) - unit(rejected.double(), dim=1)).numpy()

    def objective(theta):
        z = torch.tensor(d @ theta)
        fit = (torch.nn.functional.softplus(z) - outcomes * z).sum()
        return float(fit) + 0.5 * (theta**2).sum() / TASTE_SCALE**2

    theta = minimize(objective, torch.zeros(12, dtype=torch.float64).numpy(), tol=1e-10).x
    dual = outcomes - torch.sigmoid(torch.tensor(d @ theta))
    weights, confidence = weigh(chosen, rejected, outcomes)
    torch.testing.assert_close(weights, (dual / dual.abs().sum()).float(), rtol=1e-4, atol=1e-5)
    assert 0 < confidence < 1


def test_one_pair_by_hand():
    """theta = s^2 (1 - p) d with p = sigmoid(theta . d); d = (1, -1), s = 3: theta . d = 18 (1 - p) = 2.051."""
    weights, confidence = weigh(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]]), torch.ones(1))
    assert weights.tolist() == [1.0]
    z = 2.0513
    assert z == pytest.approx(18 * (1 - 1 / (1 + torch.e**-z)), rel=1e-3)
    p = 1 / (1 + torch.e**-z)
    variance = 9 / (1 + 18 * p * (1 - p))
    assert confidence == pytest.approx((z / 2**0.5) / (z**2 / 2 + variance) ** 0.5, rel=1e-3)


def test_agreement_makes_sure_and_contradiction_unsure():
    a, b = draw(1, 16, seed=3), draw(1, 16, seed=4)
    sure = [weigh(a.repeat(n, 1), b.repeat(n, 1), torch.ones(n))[1] for n in (1, 4, 16)]
    assert sure == sorted(sure) and sure[0] < 0.8 < sure[2]
    weights, confidence = weigh(torch.cat([a, b]), torch.cat([b, a]), torch.ones(2))
    assert confidence == 0 and weights.tolist() == [0.5, 0.5]


def test_states_are_those_of_the_last_but_one_layer(tower, adapter):
    features, x = ImagePromptTower.from_clip(tower, adapter), draw(2, 3, 224, 224, seed=5).sigmoid()
    kept = []
    handle = tower.visual.transformer.resblocks[-2].register_forward_hook(lambda *call: kept.append(call[2]))
    embeds, states = features.look(x)
    handle.remove()
    torch.testing.assert_close(embeds, tower.image_tensor_features(x))
    torch.testing.assert_close(states, kept[0])
    assert states.shape == (2, 17, 1280)


def test_both_sides_lie_around_the_weighted_middle(tower, adapter, pairs):
    features = PictureFeatures(ImagePromptTower.from_clip(tower, adapter))
    embedding = encode_image_prompt(pairs, features)
    rows = features.picture_features([p for pair in pairs for p in (pair.chosen, pair.rejected)])
    weights, confidence = weigh(rows[0::2, :1024], rows[1::2, :1024], torch.tensor([1.0, 1.0, 0.5, 1.0]))
    seen = rows[:, 1024:] if adapter.is_plus else rows[:, :1024]
    shape = (16, 768) if adapter.is_plus else (1, 1024)
    middle = (weights.abs() @ (seen[0::2] + seen[1::2]) / 2).view(shape)
    half = confidence * (weights @ (seen[0::2] - seen[1::2]) / 2).view(shape)
    torch.testing.assert_close(embedding.u, middle + half)
    torch.testing.assert_close(embedding.u_negative, middle - half)
    assert embedding.pairs == 4
    adapter.check_embedding(embedding)


def test_swapped_picks_swap_the_sides(tower, adapter, pairs):
    features = PictureFeatures(ImagePromptTower.from_clip(tower, adapter))
    one = encode_image_prompt(pairs, features)
    swapped = [PreferencePair(p.prompt, p.rejected, p.chosen, tie=p.tie, id=p.id) for p in pairs]
    other = encode_image_prompt(swapped, features)
    torch.testing.assert_close(other.u, one.u_negative)
    torch.testing.assert_close(other.u_negative, one.u)


def test_a_pair_more_costs_a_pair_and_a_new_start_none(tower, adapter, pairs, tmp_path):
    def features():
        counted = ImagePromptTower.from_clip(tower, adapter)
        look = counted.look
        counted.look = lambda x: (seen.append(len(x)), look(x))[1]
        return PictureFeatures(counted, cache_dir=tmp_path)

    seen = []
    first = features()
    encode_image_prompt(pairs[:3], first)
    encode_image_prompt(pairs, first)
    assert seen == [6, 2]
    again = encode_image_prompt(pairs, features())
    assert seen == [6, 2]
    torch.testing.assert_close(again.u, encode_image_prompt(pairs, first).u)


def test_what_cannot_be_encoded_is_refused(tower, adapter, pairs, tmp_path):
    features = PictureFeatures(ImagePromptTower.from_clip(tower, adapter))
    with pytest.raises(ValueError, match="there are no pairs"):
        encode_image_prompt([], features)
    for widths in ((768, 1280), (1024, 1024)):  # another CLIP; DINOv2-large, whose embeddings are as wide as ViT-H-14's

        def look(x, widths=widths):
            return x.new_zeros(len(x), widths[0]), x.new_zeros(len(x), 5, widths[1])

        other = ImagePromptTower(tower.visual, look, adapter, name="", size=224, mean=[0.5] * 3, std=[0.5] * 3)
        with pytest.raises(ValueError, match=rf"{widths[0]} and {widths[1]} wide, expected ViT-H-14's 1024 and 1280"):
            encode_image_prompt(pairs, PictureFeatures(other))
    broken = [PreferencePair("x", Picture(tmp_path / "no.png"), picture(0), id="lost")]
    with pytest.raises(ValueError, match=r"Pair 'lost', chosen: the picture 'no\.png'"):
        encode_image_prompt(broken, features)
    skipped = []
    encode_image_prompt([*pairs, *broken], features, on_bad="skip", skipped=skipped)
    assert len(skipped) == 1


def test_an_embedding_of_another_kind_is_refused(tower, adapter, pairs):
    embedding = encode_image_prompt(pairs, PictureFeatures(ImagePromptTower.from_clip(tower, adapter)))
    with pytest.raises(ValueError, match="by pocket-clip, but this IP-Adapter takes .* same Load User Adapter"):
        adapter.check_embedding(replace(embedding, encoder="pocket-clip", encoder_hash="0" * 64))
    with pytest.raises(ValueError, match="no u_negative"):
        adapter.check_embedding(replace(embedding, u_negative=None))
