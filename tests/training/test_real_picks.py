"""Real people's picks: what their u is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppd.encoders.towers import open_tower
from ppd.pairs import PreferencePair
from ppd.pocket.studio import ENCODER
from ppd.training.real_picks import real_picks
from ppd.training.simulated_picks import SUPPORT_COUNTS, SUPPORTS

from .study_sets import encoder_of, latent_of, paint_studies, scene


@pytest.fixture(scope="module")
def encoder(weights, tmp_path_factory):
    studies = paint_studies(tmp_path_factory.mktemp("studies") / "mine", prompts=12)
    return encoder_of(studies, open_tower({"kind": "folder"}, weights / ENCODER))


def pairs_of(user, number, prompts=6, start=0):
    return [
        PreferencePair(f"a {n % prompts}", scene(start + n, light=0.2), scene(start + n), f"{user} {n}", user=user)
        for n in range(number)
    ]


def latents_of(pictures):
    return torch.cat([latent_of(picture) for picture in pictures])


def one_at_a_time(encoder, told, picks):
    """u [S, d] of draws from rows by pick, each by itself."""
    rng, found = np.random.default_rng(0), []
    for _ in range(SUPPORTS):
        order = rng.permutation(len(picks))
        for wanted in SUPPORT_COUNTS:
            rows = torch.tensor([row for pick in order[:wanted] for row in picks[pick]])
            _, choices = told.choices[rows].unique(return_inverse=True)
            some = (told.differences[rows], told.outcomes[rows], told.weights[rows], choices)
            found.append(encoder.encode_differences(*some).u[0])
    return torch.stack(found)


def test_u_of_many_draws_is_that_of_each(encoder, tmp_path):
    """Of few picks, more of them than any draw takes, ties among them and picks that contradict each other."""
    for number in (9, 30):
        support = pairs_of("ann", number)
        support[2::4] = [
            PreferencePair(one.prompt, one.rejected, one.chosen, one.id, "ann", tie=place == 0)
            for place, one in enumerate(support[2::4])
        ]
        real = real_picks(support, encoder, latents_of, tmp_path, queries_of=pairs_of("ann", 2, start=700))
        expected = one_at_a_time(encoder, encoder.read(support), [[row] for row in range(number)])
        torch.testing.assert_close(real.embeddings[:, 0], expected, rtol=0, atol=1e-5)
        assert expected[4].norm() > 0.1


def test_a_choice_among_several_is_one_pick_for_u(encoder, tmp_path):
    """As it is when the person's own u is made."""
    support = [
        PreferencePair(f"a {n}", scene(n, light=0.2), scene(100 * n + other), f"{n} {other}", "ann", choice=f"c{n}")
        for n in range(5)
        for other in range(3)
    ]
    real = real_picks(support, encoder, latents_of, tmp_path, queries_of=pairs_of("ann", 2, start=700))
    expected = one_at_a_time(encoder, encoder.read(support), [range(3 * n, 3 * n + 3) for n in range(5)])
    torch.testing.assert_close(real.embeddings[:, 0], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(real.embeddings[-1, 0], encoder.encode(support).u[0], rtol=0, atol=1e-5)


def test_a_choice_among_several_is_not_torn_apart(encoder, tmp_path):
    """Where all pairs have one prompt, or none."""
    pairs = [
        PreferencePair("", scene(n, light=0.2), scene(100 * n + other), f"{n} {other}", "ann", choice=f"c{n}")
        for n in range(6)
        for other in range(2)
    ]
    real = real_picks(pairs, encoder, latents_of, tmp_path)
    assert len(real) == 6 and len(np.unique(real.chosen)) == 3
