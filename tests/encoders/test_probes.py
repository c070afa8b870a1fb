"""Text probes: directions from words, readings against literal numbers, and their invariants."""

from dataclasses import asdict, replace

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer
from safetensors import safe_open
from safetensors.torch import save_file

from ppd.encoders.population import PopulationPrior, fit_whitening
from ppd.encoders.posterior import fit_posterior
from ppd.encoders.probes import Attribute, AttributeProbes

SPACE = {"lake": (0.0, 0.0, 1.0), "hill": (0.0, 1.0, 1.0), "dark": (-1.0, 0.0, 0.0), "bright": (2.0, 0.0, 0.0)}


def encode_text(texts):
    """The sum of the words' places in a space of three dimensions."""
    return torch.stack([sum(torch.tensor(SPACE[word]) for word in text.split()) for text in texts])


def probes_of(directions, names=("a", "b"), encoder_hash="hash"):
    low, high = (tuple(f"{word} {name}" for name in names) for word in ("less", "more"))
    return AttributeProbes(names, low, high, torch.tensor(directions), encoder="features", encoder_hash=encoder_hash)


def prior_of(mean, covariance, basis, noise=1.0):
    tensors = [torch.tensor(x) for x in (mean, covariance, basis)]
    center = torch.zeros(tensors[2].shape[0])
    return PopulationPrior(tensors[0], tensors[1], center, tensors[2], "features", "hash", noise)


def test_directions_are_the_mean_difference_of_unit_texts_literally():
    words = {"brightness": ("dark", "bright")}
    probes = AttributeProbes.from_texts(encode_text, ["lake", "hill"], words, encoder="e", encoder_hash="h")
    assert (probes.names, probes.low, probes.high) == (("brightness",), ("dark",), ("bright",))
    # lake: (2,0,1)/sqrt5 - (-1,0,1)/sqrt2; hill: (2,1,1)/sqrt6 - (-1,1,1)/sqrt3
    lake = torch.tensor([2 / 5**0.5 + 1 / 2**0.5, 0.0, 1 / 5**0.5 - 1 / 2**0.5])
    hill = torch.tensor([2 / 6**0.5 + 1 / 3**0.5, 1 / 6**0.5 - 1 / 3**0.5, 1 / 6**0.5 - 1 / 3**0.5])
    expected = torch.nn.functional.normalize(lake + hill, dim=0)
    torch.testing.assert_close(probes.directions, expected[None])


def test_words_that_swap_places_turn_the_direction_round():
    one, other = (
        AttributeProbes.from_texts(encode_text, ["lake", "hill"], {"x": words}, encoder="e", encoder_hash="h")
        for words in (("dark", "bright"), ("bright", "dark"))
    )
    assert torch.equal(one.directions, -other.directions)


def test_any_open_clip_model_with_a_text_side_makes_probes():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vision = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=32)
        text = CLIPTextCfg(context_length=12, vocab_size=49408, width=16, heads=2, layers=1)
        model = CLIP(8, vision, text).eval()
    tokenizer = SimpleTokenizer(context_length=12)
    words = {"warmth": ("in cold colours", "in warm colours"), "tone": ("dark", "bright")}
    probes = AttributeProbes.from_texts(
        lambda texts: model.encode_text(tokenizer(texts)), ["a lake", "a hill"], words, encoder="e", encoder_hash="h"
    )
    assert probes.directions.shape == (2, 8) and not probes.directions.requires_grad
    torch.testing.assert_close(probes.directions.norm(dim=1), torch.ones(2))
    assert probes.high == ("in warm colours", "bright")


def test_readings_literally():
    # phi = (x0 / 2, x1): pictures deviate by 2 along x0. Direction (3, 4)/5 in x is (6, 4)/sqrt(52) in phi.
    prior = prior_of([0.0, 1.0], [[4.0, 0.0], [0.0, 1.0]], [[0.5, 0.0], [0.0, 1.0]])
    probes = probes_of([[3.0, 4.0], [0.0, -2.0]])
    torch.testing.assert_close(probes.directions, torch.tensor([[0.6, 0.8], [0.0, -1.0]]))
    a, b = probes.readings(torch.tensor([2.0, 1.0]), torch.diag(torch.tensor([1.0, 0.25])), prior)
    assert a == Attribute(
        "a",
        "less a",
        "more a",
        mean=pytest.approx(16 / 52**0.5),
        deviation=pytest.approx((40 / 52) ** 0.5),
        prior_mean=pytest.approx(4 / 52**0.5),
        prior_deviation=pytest.approx((160 / 52) ** 0.5),
    )
    assert list(asdict(b).values())[3:] == pytest.approx([-1.0, 0.5, -1.0, 1.0])


def test_a_reading_is_the_log_odds_of_a_pick():
    """Pick noise divides it, so that a person whose picks say little reads as near to indifferent."""
    clear, noisy = (prior_of([2.0, 1.0], [[4.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], n) for n in (1.0, 2.0))
    probes = probes_of([[1.0, 0.0], [0.0, 1.0]])
    ours, theirs = (probes.readings(prior.mean, prior.covariance, prior) for prior in (clear, noisy))
    for one, other in zip(ours, theirs, strict=True):
        assert (other.mean, other.deviation) == pytest.approx((one.mean / 2, one.deviation / 2))


def test_a_step_is_how_pictures_differ_along_the_attribute():
    """phi's covariance with the projection over the projection's deviation, in the features that whitening was fitted
    on: what lies further along x0 also lies further along x1, since these features rise together."""
    x = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 1] += 2 * x[:, 0]
    center, basis = fit_whitening(x, dims=5)
    prior = PopulationPrior(torch.zeros(5), torch.eye(5), center, basis, "features", "hash")
    direction = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    phi = prior.whiten(x)
    projection = (x - center)[:, 0]
    expected = (phi * projection[:, None]).mean(0) / projection.std()
    axis = probes_of([direction.tolist()], names=("a",)).axes(prior)[0]
    torch.testing.assert_close(axis, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(axis.norm(), torch.ones((), dtype=torch.float64))


def test_without_picks_the_reading_is_the_priors():
    prior = prior_of([0.3, -0.2], [[1.0, 0.4], [0.4, 2.0]], [[0.5, 0.1], [0.0, 1.0]])
    for attribute in probes_of([[1.0, 0.5], [0.2, 1.0]]).readings(prior.mean, prior.covariance, prior):
        assert (attribute.mean, attribute.deviation) == (attribute.prior_mean, attribute.prior_deviation)


def test_swapped_picks_mirror_the_reading_and_picks_make_it_surer():
    """Of a population without a lean; contract 5."""
    prior = prior_of([0.0, 0.0], [[1.0, 0.4], [0.4, 2.0]], [[0.5, 0.1], [0.0, 1.0]])
    probes = probes_of([[1.0, 0.5], [0.2, 1.0]])
    x = torch.tensor([[1.0, 0.2], [0.8, -0.3], [1.5, 0.6], [0.2, 1.0]])
    ours, theirs = (
        probes.readings(*fit_posterior(sign * x, torch.ones(4), prior.mean, prior.covariance), prior)
        for sign in (1, -1)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one.mean == -other.mean > 0 and one.deviation == other.deviation < one.prior_deviation


def test_a_file_returns_what_was_saved_and_says_whose_it_is(tmp_path):
    probes = probes_of([[0.6, 0.8], [0.0, -1.0]])
    probes.save(tmp_path / "probes.safetensors")
    loaded = AttributeProbes.load(tmp_path / "probes.safetensors")
    torch.testing.assert_close(loaded.directions, probes.directions)
    assert (loaded.names, loaded.low, loaded.high) == (("a", "b"), ("less a", "less b"), ("more a", "more b"))
    with safe_open(tmp_path / "probes.safetensors", "pt") as file:
        assert file.metadata() == {
            "format": "ppd-attribute-probes",
            "version": "1",
            "encoder": "features",
            "encoder_hash": "hash",
            "names": '["a", "b"]',
            "low": '["less a", "less b"]',
            "high": '["more a", "more b"]',
        }


def test_another_encoders_probes_are_refused():
    prior = prior_of([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]])
    probes = probes_of([[1.0, 0.0], [0.0, 1.0]], encoder_hash="other")
    with pytest.raises(ValueError, match=r"for encoder features \(other\), got features \(hash\); make them again"):
        probes.readings(prior.mean, prior.covariance, prior)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("a",)}, r"a name, a low and a high word per direction \[k, f\], got \[1, 2, 2\] and \[2, 2\]"),
        ({"directions": torch.ones(2)}, r"per direction \[k, f\], got \[2, 2, 2\] and \[2\]"),
        ({"names": ("a", "a")}, "different names, got a, a"),
        ({"directions": torch.tensor([[1.0, 0.0], [0.0, 0.0]])}, "no direction for b: give words"),
        ({"directions": torch.tensor([[float("nan"), 0.0], [0.0, 1.0]])}, "no direction for a: give words"),
    ],
)
def test_probes_that_are_none_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(probes_of([[1.0, 0.0], [0.0, 1.0]]), **change)


def test_wrong_shapes_and_empty_inputs_are_named():
    prior = prior_of([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]])
    probes = probes_of([[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"mean \[2\] and covariance \[2, 2\], as the prior's, got \[1, 2\]"):
        probes.readings(torch.zeros(1, 2), torch.eye(2), prior)
    with pytest.raises(ValueError, match="captions and words to probe, got 0 and 1"):
        AttributeProbes.from_texts(encode_text, [], {"x": ("dark", "bright")}, encoder="e", encoder_hash="h")


def test_files_that_hold_no_probes_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="no probe set file"):
        AttributeProbes.load(path)
    metadata = {"format": "ppd-attribute-probes", "version": "1", "encoder": "e", "encoder_hash": "h"}
    words = {"names": '["a"]', "low": '["b"]', "high": '["c"]'}
    for change, message in (
        ({"format": "ppd-population-prior"}, "x.safetensors is no probe set"),
        ({"version": "2"}, "version '2', expected '1'"),
        ({"low": "b"}, "x.safetensors: expected a list of words as low, got 'b'"),
        ({"high": "[1]"}, "x.safetensors: expected a list of words as high"),
        ({"names": '["a", "b"]'}, r"x.safetensors: Expected a name, .* got \[2, 1, 1\]"),
    ):
        save_file({"directions": torch.ones(1, 2)}, path, {**metadata, **words, **change})
        with pytest.raises(ValueError, match=message):
            AttributeProbes.load(path)
    save_file({"directions": torch.ones(1, 2)}, path, metadata)
    with pytest.raises(ValueError, match="incomplete probe set, it lacks names, low, high"):
        AttributeProbes.load(path)
