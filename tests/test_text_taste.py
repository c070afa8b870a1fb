"""A taste as words and as a direction, against sums by hand."""

from __future__ import annotations

import pytest
import torch

from ppd.encoders.looks import Looks
from ppd.lexicon import Look, LookSide
from ppd.text_taste import (
    contrast,
    disliked_words,
    instruction,
    leanings,
    liked_words,
    on_prompt,
    shifted,
    token_mean,
    told,
)
from ppd.user_embedding import UserEmbedding, blend, null_user

OIL = Look(
    "watercolor-oil",
    "medium",
    LookSide("watercolor", "水彩", "a watercolor painting of {prompt}"),
    LookSide("oil painting", "油彩", "an oil painting of {prompt} on canvas", "watercolor"),
)
LOOKS = Looks(
    names=("watercolor-oil", "cool-warm", "dim-bright"),
    low=("watercolor", "cool", "dim"),
    high=("oil painting", "warm", "bright"),
    steps=torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    readings=torch.tensor([[0.5, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    reliability=torch.ones(3),
)
LEXICON = {OIL.id: OIL}


def person(*u, spread=None):
    factor = None if spread is None else spread * torch.eye(len(u))
    return UserEmbedding(
        torch.tensor([u]), "some-clip", "0" * 64, pairs=4, created="2026-01-01", covariance_factor=factor
    )


def test_effects_are_log_odds_of_a_step_and_their_certainty_the_posteriors():
    found = leanings(person(1.0, -3.0, 0.25, spread=1.0), LOOKS, 2.0, LEXICON)
    assert [one.look.id for one in found] == ["cool-warm", "watercolor-oil", "dim-bright"]
    assert [one.effect for one in found] == [-1.5, 1.0, 0.125]
    expected = torch.special.ndtr(torch.tensor([3.0, 1.0, 0.25]))
    torch.testing.assert_close(torch.tensor([one.certainty for one in found]), expected)
    assert [one.certainty for one in leanings(person(1.0, -3.0, 0.2), LOOKS, 2.0, LEXICON)] == [None] * 3


def test_the_opposite_taste_likes_what_this_one_dislikes():
    own, opposite = (
        told(leanings(person(*u, spread=0.1), LOOKS, 1.0, {})) for u in ((1.0, -3.0, 2.0), (-1.0, 3.0, -2.0))
    )
    assert liked_words(own) == disliked_words(opposite) == "cool, oil painting, bright"
    assert disliked_words(own) == liked_words(opposite) == "warm, watercolor, dim"


def test_weights_are_linear_in_u():
    one, other = person(1.0, -3.0, 2.0), person(0.5, 4.0, 0.0)
    weights = [
        {found.look.id: found.weight for found in leanings(who, LOOKS, 1.0, LEXICON)}
        for who in (one, other, blend(one, other, 0.25), null_user(one))
    ]
    for look, value in weights[2].items():
        assert value == pytest.approx(0.75 * weights[0][look] + 0.25 * weights[1][look])
        assert weights[3][look] == 0


def test_words_of_few_picks_wait_until_they_are_sure():
    found = leanings(person(2.0, -3.0, 0.5, spread=2.0), LOOKS, 1.0, LEXICON)
    assert [one.look.id for one in told(found)] == ["watercolor-oil", "cool-warm"]
    assert [one.look.id for one in told(found, least=0.9)] == ["cool-warm"]
    assert [one.look.id for one in told(found, most=1)] == ["watercolor-oil"]
    assert told(leanings(person(0.0, 0.0, 0.0), LOOKS, 1.0, LEXICON)) == []
    unsure = leanings(person(2.0, -3.0, 0.5), LOOKS, 1.0, LEXICON)  # as from a file: the clear ones
    assert [one.look.id for one in told(unsure)] == ["watercolor-oil", "cool-warm"]


def test_words_go_around_the_prompt_or_behind_it():
    found = told(leanings(person(1.0, 3.0, -2.5, spread=0.1), LOOKS, 1.0, LEXICON))
    assert on_prompt("a cat", found) == "an oil painting of a cat on canvas, warm, dim"
    assert liked_words(found) == "warm, dim, oil painting"
    assert disliked_words(found) == "cool, bright, watercolor"
    said = instruction(found)
    assert "likes: warm (sure), dim (sure), oil painting (sure). Avoid: cool" in said
    assert instruction([]) == liked_words([]) == disliked_words([]) == ""
    assert on_prompt("a cat", []) == "a cat"


def test_an_embedding_of_another_taste_encoder_is_refused():
    with pytest.raises(ValueError, match="Expected a user embedding of 3 dimensions .* got 2: use the taste encoder"):
        leanings(person(1.0, 2.0), LOOKS, 1.0, LEXICON)


def test_token_means_count_directions_alike_and_leave_padding_out():
    states = torch.tensor([[[3.0, 0.0], [0.0, 400.0], [0.0, 0.0]]])
    torch.testing.assert_close(token_mean(states), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(token_mean(states, torch.tensor([[1, 0, 0]])), torch.tensor([1.0, 0.0]))
    layered = torch.stack([states, 2 * states.flip(-1)], 1)  # [1, layers, L, D]
    torch.testing.assert_close(token_mean(layered), torch.tensor([[0.5, 0.5], [0.5, 0.5]]))


def test_a_contrast_is_the_mean_difference_of_pairs_of_prompts():
    high, low = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0])], [torch.tensor([0.0, 1.0])] * 2
    assert contrast(high, low).tolist() == [2.0, 0.0]


def test_tokens_move_by_a_share_of_their_own_length():
    tokens = torch.tensor([[[3.0, 4.0], [0.0, 100.0], [0.0, 0.0], [6.0, 8.0]]])
    direction = torch.tensor([[1.0, 0.0]])
    moved = shifted(tokens, direction, 0.1, torch.tensor([[1, 1, 1, 0]]))
    torch.testing.assert_close(moved, torch.tensor([[[3.5, 4.0], [10.0, 100.0], [0.0, 0.0], [6.0, 8.0]]]))
    torch.testing.assert_close(2 * tokens - moved, shifted(tokens, direction, -0.1, torch.tensor([[1, 1, 1, 0]])))
    people = shifted(tokens, torch.tensor([[1.0, 0.0], [0.0, -1.0]]), 0.1)
    assert people.shape == (2, 4, 2) and people[1, 1].tolist() == [0.0, 90.0]
    assert shifted(tokens.bfloat16(), direction, 0.1).dtype is torch.bfloat16
    layered = torch.stack([tokens, 2 * tokens], 1)
    moved = shifted(layered, torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), 0.1)
    assert moved[0, 0, 0].tolist() == [3.5, 4.0] and moved[0, 1, 0].tolist() == [6.0, 9.0]
