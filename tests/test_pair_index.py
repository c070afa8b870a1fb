"""The index of a large set: what it holds, who and what is held out, and the second pass."""

import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ppd.pair_index import PairIndex, held_out, index_pairs, sentence, split, told
from ppd.pairs import PreferencePair, write_pairs
from ppd.pictures import Picture


def key(data):
    return int(hashlib.sha256(data).hexdigest()[:16], 16)


def bitmap(number):
    """The smallest picture there is, each number another."""
    pixel = number.to_bytes(3, "little") + b"\0"
    return (
        b"BM"
        + (58).to_bytes(4, "little")
        + bytes(4)
        + bytes([54, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 24])
        + bytes(25)
        + pixel
    )


def parquet_of(tmp_path, rows, **options):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "set.parquet", **options)
    return tmp_path / "set.parquet"


def pick(user, caption, first, second, label=1.0, **more):
    pictures = {"jpg_0": bitmap(first), "jpg_1": bitmap(second)}
    return {"caption": caption, **pictures, "label_0": label, "label_1": 1 - label, "user_id": user, **more}


def many(people=40, each=30, seed=0):
    """Everybody answers about some of 60 prompts, of which each has 12 pictures."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(people):
        for _ in range(each if user else 3):
            prompt = int(rng.integers(60))
            first, second = rng.choice(12, 2, replace=False) + 12 * prompt
            rows.append(pick(user, f"prompt {prompt}", int(first), int(second), float(rng.choice([1.0, 0.5]))))
    return rows


def test_numbers_are_the_first_bits_of_sha256(tmp_path):
    rows = [
        pick("ann", "A  boat", 1, 2, 0.3, has_label=True),
        pick("ann", "torn", 3, 3, has_label=False),
        pick("bob", "a Boat", 3, 1, 0.5),
        pick(None, "a boat", 4, 5),
        pick("cy", "a boat", 4, 4),
    ]
    skipped = []
    index = index_pairs(parquet_of(tmp_path, rows), skipped=skipped)
    assert ["one and the same picture" in str(error) for error in skipped] == [True]
    assert len(index) == 3 and index.rows.tolist() == [1, 3, 4]
    assert index.users.tolist() == [key(b"ann"), key(b"bob"), key(b"")]
    assert index.prompts.tolist() == [key(b"a boat")] * 3
    assert index.pictures.tolist() == [[key(bitmap(one)) for one in pair] for pair in [(2, 1), (3, 1), (4, 5)]]
    np.testing.assert_allclose(index.outcomes, [0.7, 0.5, 1])


def test_files_and_bytes_of_a_picture_are_the_same_number_and_bad_ones_are_left_out(tmp_path):
    pictures = [Picture(data=bitmap(number)) for number in range(3)]
    first, second, third = pictures
    pairs = [PreferencePair("p", first, second, "one", "ann"), PreferencePair("p", second, third, "two")]
    write_pairs(tmp_path / "set", pairs)
    (tmp_path / "set" / "images" / f"{pictures[2].digest}.bmp").unlink()
    with (tmp_path / "set" / "pairs.jsonl").open("a") as lines:
        lines.write(json.dumps({"id": "three", "prompt": "p"}) + "\n")
    skipped = []
    index = index_pairs(tmp_path / "set", skipped=skipped)
    assert index.pictures.tolist() == [[key(bitmap(0)), key(bitmap(1))]]
    assert [error.pair_id for error in skipped] == ["two", "three"]


def test_the_second_pass_reads_what_is_wanted_and_finds_out_a_changed_set(tmp_path):
    rows = many()
    file = parquet_of(tmp_path, rows, row_group_size=100)
    index = index_pairs(file)
    wanted = np.zeros(len(index), bool)
    wanted[[0, 5, 700]] = True
    found = list(index.read(wanted))
    assert [place for place, _ in found] == [0, 5, 700]
    assert [pair.prompt for _, pair in found] == [rows[place]["caption"] for place in (0, 5, 700)]
    assert [pair.user for _, pair in found] == [str(rows[place]["user_id"]) for place in (0, 5, 700)]
    assert list(index.read(np.zeros(len(index), bool))) == []
    parquet_of(tmp_path, rows[:600])
    with pytest.raises(ValueError, match=r"set.parquet has changed since it was indexed: index it again"):
        list(index.read(wanted))
    parquet_of(tmp_path, [{**row, "caption": "another"} for row in rows])
    with pytest.raises(ValueError, match="has changed"):
        list(index.read(wanted))


def test_people_prompts_and_pictures_are_held_out_by_their_hashes(tmp_path):
    rows = many()
    index = index_pairs(parquet_of(tmp_path, rows))
    parts = split(index, users=0.3, prompts=0.2, pictures=0.1, least_pairs=8)

    def out(text, share):
        return key(text) < share * 2**64

    for place, row in enumerate(rows):
        user, prompt = str(row["user_id"]).encode(), row["caption"].encode()
        pictures = out(row["jpg_0"], 0.1) or out(row["jpg_1"], 0.1)
        assert parts.dropped[place] == (row["user_id"] == 0)
        seen = row["user_id"] != 0 and not out(prompt, 0.2) and not pictures
        assert parts.train[place] == (seen and not out(user, 0.3))
        assert parts.support[place] == (seen and out(user, 0.3))
        assert parts.query[place] == (row["user_id"] != 0 and out(prompt, 0.2) and row["label_0"] == 1)
    counts = told(index, parts)
    assert counts["people"] == 40 and counts["people_with_too_few"] == 1 and counts["pairs"] == len(rows)
    assert min(counts.values()) > 0
    assert sentence(index, parts) == (
        f"{len(rows):,} pairs, people: 40 (1 with too few pairs, which are left out); {counts['train']} pairs train "
        f"(people: {counts['people_train']}); {counts['support']} tell tastes of people who are held "
        f"out ({counts['people_held_out']}), and {counts['query_of_held_out_people']} measure what they like."
    )
    nobody = split(index, users=0.0, prompts=0.0, pictures=0.0)
    assert sentence(index, nobody).endswith("1,170 pairs train (people: 39), and nobody is held out to measure on.")
    assert counts["train"] == parts.train.sum() and counts["people_held_out"] == sum(
        out(str(user).encode(), 0.3) for user in range(1, 40)
    )


def test_no_picture_and_no_prompt_is_on_both_sides(tmp_path):
    """Even where prompts share pictures, as far as that leaves a pair to judge by."""
    rng = np.random.default_rng(1)
    rows = [
        pick(user, f"prompt {rng.integers(40)}", *map(int, rng.choice(400, 2, replace=False)))
        for user in range(20)
        for _ in range(20)
    ]
    index = index_pairs(parquet_of(tmp_path, rows))
    parts = split(index, users=0.3, prompts=0.3)
    taken = parts.train | parts.support
    assert parts.query.any() and not (parts.train & parts.support).any() and not (taken & parts.query).any()
    assert not np.intersect1d(index.pictures[taken], index.pictures[parts.query]).size
    assert not np.intersect1d(index.prompts[taken], index.prompts[parts.query]).size
    some = parts.train & (np.arange(len(index)) % 10 == 0)
    rest = index.disjoint(some, parts.train)
    assert rest.any() and not (rest & some).any() and (rest <= parts.train).all()
    assert not np.intersect1d(index.pictures[some], index.pictures[rest]).size
    assert not np.intersect1d(index.prompts[some], index.prompts[rest]).size


def test_sides_stay_when_the_set_grows(tmp_path):
    rows = many()
    index, first = index_pairs(parquet_of(tmp_path, rows)), None
    first = split(index)
    grown = index_pairs(parquet_of(tmp_path, rows + many(60, seed=5)))
    later = split(grown)
    assert (later.train[: len(rows)] >= first.train).all()
    assert (later.support[: len(rows)] >= first.support).all()
    assert not (later.train[: len(rows)] & (first.support | first.query)).any()


def test_shares_are_shares():
    keys = np.random.default_rng(0).integers(0, 2**64, 200_000, dtype=np.uint64, endpoint=False)
    for share in (0.0, 0.02, 0.1, 0.5, 1.0):
        assert held_out(keys, share).mean() == pytest.approx(share, abs=0.003)
    assert not held_out(keys, 0).any() and held_out(keys, 1).all()
    assert (held_out(keys, 0.1) <= held_out(keys, 0.2)).all()
    nobody: Any = SimpleNamespace(users=keys[:3])
    with pytest.raises(ValueError, match=r"Expected shares from 0 to 1 to hold out, got 1.5"):
        split(nobody, users=1.5)


def test_an_empty_set_is_split_into_nothing(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("")
    index = index_pairs(tmp_path)
    parts = split(index)
    assert len(index) == 0 and set(told(index, parts).values()) == {0}
    assert list(replace(index).read(parts.train)) == [] and isinstance(index, PairIndex)


def test_cancelling(tmp_path):
    def cancel(rows):
        if rows == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_pairs(parquet_of(tmp_path, many()), progress=cancel)
