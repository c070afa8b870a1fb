"""Real people's sets: what of them is read, who trains, what stays in memory, and what a broken picture costs."""

from __future__ import annotations

import logging
import tracemalloc
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from ppd.encoders.towers import open_tower
from ppd.pair_index import SHARE, key_of
from ppd.pairs import PreferencePair, write_pairs
from ppd.pictures import Picture
from ppd.pocket.studio import ENCODER
from ppd.training.real_picks import pairs_in, real_picks
from ppd.training.simulated_picks import SUPPORT_COUNTS, SUPPORTS
from tests.conftest import write_example

from .study_sets import encoder_of, latent_of, paint_studies, scene

BROKEN = Picture(data=b"no picture")
HELD_OUT_USER = next(str(n) for n in count() if key_of(str(n)) < SHARE * 2**64)
TRAINING_USER = next(str(n) for n in count() if key_of(str(n)) >= SHARE * 2**64)


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


def written(folder, *people, pairs=10):
    write_pairs(folder, [pair for n, user in enumerate(people) for pair in pairs_of(user, pairs, start=1000 * n)])
    return folder


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


def test_a_set_of_one_person_trains(tmp_path):
    """Whoever it is, and however many sets of one person there are."""
    for user in (HELD_OUT_USER, TRAINING_USER):
        taught, others = pairs_in([written(tmp_path / f"only {user}", user)], 100, tmp_path / "pictures")
        assert len(taught) >= 8 and {pair.user for pair in taught} == {user}
        assert others.support == [] == others.query
    both = [tmp_path / f"only {user}" for user in (HELD_OUT_USER, TRAINING_USER)]
    taught, others = pairs_in(both, 100, tmp_path / "pictures")
    assert {pair.user for pair in taught} == {HELD_OUT_USER, TRAINING_USER} and others.support == []


def test_one_prompt_that_is_held_out_leaves_nobody_without_training(tmp_path):
    prompt = next(f"prompt {n}" for n in count() if key_of(f"prompt {n}") < SHARE * 2**64)
    pairs = [PreferencePair(prompt, scene(n, light=0.2), scene(n), str(n), user=TRAINING_USER) for n in range(9)]
    write_pairs(tmp_path / "set", pairs)
    assert len(pairs_in([tmp_path / "set"], 100, tmp_path / "pictures")[0]) == 9


def test_who_trains_by_one_set_is_measured_by_none(tmp_path):
    """Neither on their own picks, nor anybody on a picture or prompt that trains by another set."""
    many, own = written(tmp_path / "many", HELD_OUT_USER, TRAINING_USER, pairs=60), tmp_path / "own"
    assert {pair.user for pair in pairs_in([many], 200, tmp_path)[1].support} == {HELD_OUT_USER}
    written(own, HELD_OUT_USER)
    taught, others = pairs_in([many, own], 200, tmp_path)
    assert {pair.user for pair in taught} == {HELD_OUT_USER, TRAINING_USER}
    assert others.support == [] == others.query


def test_exports_of_two_people_are_two_people(tmp_path):
    """Whose a set is without a word, its file says."""
    sets = [tmp_path / name for name in ("ann", "bob")]
    for seed, path in enumerate(sets):
        write_example(path, seed=seed, pairs=12)
    taught, others = pairs_in(sets, 100, tmp_path / "pictures")
    assert {pair.user for pair in (*taught, *others.support, *others.query)} == set(map(str, sets))
    assert not (tmp_path / "pictures").exists()  # they are files already


def test_what_a_set_is_for_is_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "ppd.training.real_picks"):
        pairs_in([written(tmp_path / "set", HELD_OUT_USER, TRAINING_USER, pairs=12)], 5, tmp_path)
    assert caplog.messages == [
        "set: 24 pairs, people: 2; 5 pairs train (people: 1); 1 tell tastes of people "
        "who are held out (1), and 0 measure what they like."
    ]


def parquet_of(file: Path, pairs=200, side=128):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rng, rows = np.random.default_rng(0), []
    for number in range(pairs):
        values = torch.from_numpy(rng.random((2, side, side, 3), np.float32))
        first, second = (Picture.from_tensor(one).data for one in values)
        row = {"caption": f"prompt {number}", "jpg_0": first, "jpg_1": second, "label_0": 1.0, "label_1": 0.0}
        rows.append(row | {"user_id": str(number % 10)})
    parquet.write_table(arrow.Table.from_pylist(rows), file, row_group_size=20)
    return file


def test_pictures_of_a_large_set_are_on_disk(tmp_path):
    """Never are those of 200 pairs in memory together; and they are written once."""
    file = parquet_of(tmp_path / "set.parquet")
    tracemalloc.start()
    taught, _ = pairs_in([file], 1000, tmp_path / "pictures")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pictures = {side for pair in taught for side in (pair.chosen, pair.rejected)}
    size = sum(len(picture.read()) for picture in pictures)
    assert size > 15e6 and peak < size
    assert all(picture.path.name == picture.digest and picture.data is None for picture in pictures)
    before = {path: path.stat().st_ino for path in (tmp_path / "pictures").iterdir()}
    again, _ = pairs_in([file], 1000, tmp_path / "pictures")
    assert again == taught
    assert before == {path: path.stat().st_ino for path in (tmp_path / "pictures").iterdir()}


def with_broken(pairs, **places):
    """The pairs, of which one has a broken picture at each of the places."""
    return [
        PreferencePair(one.prompt, one.chosen, BROKEN if n in places.values() else one.rejected, one.id, one.user)
        for n, one in enumerate(pairs)
    ]


def test_a_broken_picture_costs_its_pair(encoder, tmp_path, caplog):
    """Whether it makes u or is trained on, in a batch of latents or as the first of them; and the next start says it
    again."""
    support, query = pairs_of("ann", 10), pairs_of("ann", 6, start=700)
    good = real_picks(support[1:], encoder, latents_of, tmp_path / "good", queries_of=query[1:5])
    broken = with_broken(support, first=0), with_broken(query, first=0, last=5)
    broken[1][0] = PreferencePair("a 0", BROKEN, query[0].rejected, "ann 0", "ann")
    for _ in range(2):
        caplog.clear()
        found = real_picks(broken[0], encoder, latents_of, tmp_path / "some", queries_of=broken[1])
        assert len(found) == len(good) == 4 and found.prompts == good.prompts
        torch.testing.assert_close(found.embeddings[-1], good.embeddings[-1], rtol=0, atol=1e-5)
        index = torch.from_numpy(np.stack([found.chosen, found.rejected]))
        expected = torch.from_numpy(np.stack([good.chosen, good.rejected]))
        for ours, theirs in zip(index, expected, strict=True):
            assert torch.equal(found.latents[ours], good.latents[theirs])
        assert sum(message.startswith("Skipped: Pair 'ann 0', ") for message in caplog.messages) == 2
        assert sum(message.startswith("Skipped: Pair 'ann 5', ") for message in caplog.messages) == 1
        assert caplog.messages[-1] == "Left out 3 pairs whose pictures cannot be read."


def test_who_has_broken_pictures_alone_is_no_person(encoder, tmp_path):
    """Else measuring would look for their picks."""
    support = [*pairs_of("ann", 8), *pairs_of("bob", 8, start=200), *pairs_of("eve", 8, start=400)]
    query = [*pairs_of("ann", 2, start=600), *pairs_of("bob", 2, start=700), *pairs_of("eve", 2, start=800)]
    query[:2] = with_broken(query[:2], one=0, other=1)
    real = real_picks(support, encoder, latents_of, tmp_path, queries_of=query)
    assert real.people == 2 and real.person.tolist() == [0, 0, 1, 1]
    alone = real_picks(support[8:], encoder, latents_of, tmp_path, queries_of=query[2:])
    torch.testing.assert_close(real.embeddings[-1, 1], alone.embeddings[-1, 1], rtol=0, atol=1e-5)


def test_nothing_but_broken_pictures_is_one_error(encoder, tmp_path):
    broken = [PreferencePair(f"a {n}", Picture(data=b"none %d" % n), scene(n), str(n), "ann") for n in range(9)]
    with pytest.raises(ValueError, match="No pair is left to train on, since pictures cannot be read. The first"):
        real_picks(broken, encoder, latents_of, tmp_path)
    # Measuring comes when all has been trained, and goes without
    assert real_picks(pairs_of("ann", 9), encoder, latents_of, tmp_path, queries_of=broken) is None
