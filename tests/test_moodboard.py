"""Loved pictures as choices against a background."""

import numpy as np
import pytest
import torch
from PIL import Image

from ppd.encoders.encoder import PosteriorEncoder
from ppd.encoders.features import PictureFeatures
from ppd.encoders.population import PopulationPrior
from ppd.moodboard import moodboard_pairs, turns
from ppd.pictures import Picture


def picture(*colour):
    return Picture.from_image(Image.new("RGB", (8, 8), colour))


class Colours:
    """A tower that sees a picture's mean colour."""

    name, batch, weight_hash, dim = "colours", 8, "c", 3

    def prepare(self, image):
        return torch.from_numpy(np.asarray(image, dtype=np.float32).mean((0, 1)) / 64)

    def features(self, prepared):
        return torch.stack(list(prepared))


LOVED = [picture(200 + shade, 40, 40) for shade in range(3)]
BACKGROUND = [picture(int(r), int(g), int(b)) for r, g, b in np.random.default_rng(0).integers(0, 256, (30, 3))]


def test_each_of_a_few_loved_pictures_is_one_choice_against_the_same_background():
    pairs = moodboard_pairs(LOVED, BACKGROUND, "a boat", most=5)
    assert len(pairs) == 15 and len({pair.id for pair in pairs}) == 15
    assert {pair.prompt for pair in pairs} == {"a boat"}
    by_choice = {}
    for pair in pairs:
        by_choice.setdefault(pair.choice, []).append(pair)
    assert len(by_choice) == 3
    against = sorted(other.digest for other in BACKGROUND)[:5]
    for loved, choice in zip(LOVED, by_choice.values(), strict=True):
        assert {pair.chosen.digest for pair in choice} == {loved.digest}
        assert [pair.rejected.digest for pair in choice] == against


def test_many_loved_pictures_share_the_background_in_turn():
    """256 comparisons or one each, and each of the others as often."""
    for loved, others, each in ((3, 64, 64), (10, 64, 25), (50, 64, 5), (300, 64, 1), (1, 5, 5), (100, 1, 1)):
        found = turns(loved, others)
        assert [len(set(turn)) for turn in found] == [each] * loved
        counts = np.bincount(np.concatenate(found), minlength=others)
        assert counts.max() - counts.min() <= 1
    pairs = moodboard_pairs([picture(number, 9, 9) for number in range(200)], BACKGROUND)
    assert len(pairs) == len({pair.choice for pair in pairs}) == 200
    assert {pair.rejected.digest for pair in pairs} == {other.digest for other in BACKGROUND}


def test_loved_pictures_are_in_no_background_and_what_is_there_twice_counts_once():
    plain = moodboard_pairs(LOVED, BACKGROUND)
    mixed = moodboard_pairs(LOVED + LOVED[:1], BACKGROUND[::-1] + LOVED + BACKGROUND[:4])
    told = [
        [(pair.id, pair.chosen.digest, pair.rejected.digest, pair.choice) for pair in some] for some in (plain, mixed)
    ]
    assert told[0] == told[1] and len(plain) == 90


def test_a_larger_background_mostly_stays_the_same():
    before, after = (
        {pair.rejected.digest for pair in moodboard_pairs(LOVED, BACKGROUND[:number], most=12)} for number in (27, 30)
    )
    assert len(before) == len(after) == 12 and len(before & after) >= 9


def test_nothing_beside_the_loved_pictures_is_refused():
    with pytest.raises(ValueError, match="needs other pictures to count against, got 3 loved and none beside them"):
        moodboard_pairs(LOVED, LOVED[:2])
    assert moodboard_pairs([], []) == []


def test_the_taste_is_where_loved_pictures_are_beyond_the_background():
    prior = PopulationPrior(torch.zeros(3), torch.eye(3), torch.full((3,), 2.0), torch.eye(3), "colours", "c")
    encoder = PosteriorEncoder(PictureFeatures(Colours()), prior)
    embedding = encoder.encode(moodboard_pairs(LOVED, BACKGROUND))
    assert embedding.pairs == 3
    red, green, blue = embedding.u[0].tolist()
    assert red > 0.4 and green < -0.4 and blue < -0.4
    unloved = encoder.encode(moodboard_pairs(LOVED, LOVED + BACKGROUND))
    assert torch.equal(unloved.u, embedding.u)
