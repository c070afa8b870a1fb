from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.preference_judge import fit_judges, scores, split, win_rate
from ppd.pairs import PreferencePair
from ppd.pictures import Picture


def picture(shade: int) -> Picture:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(buffer, "PNG")
    return Picture(data=buffer.getvalue())


def pair(number: int, prompt: str | None = None, tie: bool = False) -> PreferencePair:
    pictures = picture(2 * number), picture(2 * number + 1)
    return PreferencePair(prompt or f"prompt {number}", *pictures, id=str(number), tie=tie)


def test_the_first_pairs_are_the_support_and_the_rest_is_held_out():
    pairs = [pair(number) for number in range(7)]
    support, held_out = split(pairs, None, 4)
    assert [p.id for p in support] == list("0123") and [p.id for p in held_out] == list("456")


def test_held_out_pairs_share_no_picture_and_no_caption_with_the_support():
    pairs = [pair(number) for number in range(4)]
    same_picture = PreferencePair("another prompt", picture(100), pairs[2].rejected, id="same picture")
    given = [pair(10), same_picture, pair(11, "Prompt  1"), pair(12)]
    support, held_out = split(pairs, given, support=2)
    assert support == pairs  # all of them, since the held-out pairs are a set of their own
    assert [p.id for p in held_out] == ["10", "12"]


@pytest.mark.parametrize("others", [[], [pair(10)], [pair(10), pair(11, tie=True)], [pair(0), pair(1)]])
def test_too_few_held_out_picks_are_refused(others):
    with pytest.raises(ValueError, match="picks among the held-out pairs, expected 2 or more"):
        split([pair(number) for number in range(4)], others, 4)


def test_too_few_support_picks_are_refused():
    with pytest.raises(ValueError, match="1 picks among the support pairs"):
        split([pair(0), pair(1, tie=True)], [pair(10), pair(11)], 4)


def test_the_judge_likes_what_the_pairs_liked():
    like, dislike = torch.tensor([3.0, 1.0, 0.0]), torch.tensor([1.0, 3.0, 0.0])  # length does not count
    chosen, rejected = torch.stack([like, 2 * like]), torch.stack([dislike, dislike])
    judges = fit_judges(chosen, rejected, torch.ones(2), redrawn=5)
    assert judges.shape == (6, 3)
    torch.testing.assert_close(judges[0, 0], -judges[0, 1])
    assert judges[0, 0] > 0
    torch.testing.assert_close(judges[:, 2], torch.zeros(6, dtype=torch.float64))  # nothing was said of it
    torch.testing.assert_close(judges, judges[:1].expand(6, 3))  # two equal pairs are the same however they are drawn
    found = scores(judges, torch.stack([like, dislike, torch.ones(3)]))
    assert found.shape == (6, 3)
    assert (found[:, 0] > found[:, 2]).all() and (found[:, 2] > found[:, 1]).all()


def test_ties_say_that_both_are_equally_good():
    chosen, rejected = torch.eye(3)[:2], torch.eye(3)[[1, 2]]
    judges = fit_judges(chosen, rejected, torch.full((2,), 0.5), redrawn=3)
    torch.testing.assert_close(judges, torch.zeros(4, 3, dtype=torch.float64))


def test_win_rates_count_ties_half():
    ours = np.array([[[1.0, 1.0], [0.0, 5.0]]])  # one judge, two prompts, two seeds
    theirs = np.array([[[0.0, 1.0], [1.0, 2.0]]])
    found = win_rate(ours.repeat(101, 0), theirs.repeat(101, 0))
    assert found["mean"] == (1 + 0.5 + 0 + 1) / 4 and found["n"] == 2
    # Prompts win .75 and .5: rounds draw both, or one of them twice
    assert (found["low"], found["high"]) == (0.5, 0.75)


def test_the_interval_knows_that_judges_differ():
    better, worse = np.ones((1, 20, 1)), np.zeros((1, 20, 1))
    sure = win_rate(better.repeat(101, 0), worse.repeat(101, 0))
    assert (sure["mean"], sure["low"], sure["high"]) == (1, 1, 1)
    undecided = np.concatenate([better] + [better, worse] * 50)  # half of the redrawn judges say the opposite
    found = win_rate(undecided, 1 - undecided)
    assert (found["mean"], found["low"], found["high"]) == (1, 0, 1)
