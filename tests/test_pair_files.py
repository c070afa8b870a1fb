"""Preference files: bad rows are their owner's alone, damage ends in one bounded sentence, links lead nowhere."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import time

import numpy as np
import pytest
from PIL import Image

from ppd.pair_digest import preference_set_digest
from ppd.pairs import read_pairs
from ppd.pictures import PreferenceError
from tests.mutations import mutations

LONGEST_MESSAGE = 600


def encoded(number, kind="PNG"):
    pixels = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.png").write_bytes(encoded(ord(name)))
    return folder


def row(**more):
    return {"prompt": "a boat", "chosen": "a.png", "rejected": "b.png", **more}


def write(folder, *rows):
    (folder / "pairs.jsonl").write_text(
        "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows)
    )


def refusal(folder):
    with pytest.raises(PreferenceError) as caught:
        list(read_pairs(folder))
    assert len(str(caught.value)) <= LONGEST_MESSAGE and "\n" not in str(caught.value)
    str(caught.value).encode()
    return str(caught.value)


LONG = "x" * 10_000_000


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(chosen=LONG), "inside the preference set's folder|cannot be read"),
        (row(chosen="../" + LONG), "inside the preference set's folder, got '../xxx"),
        (row(id=LONG, prompt=3), "Pair 'xxxx.*expected a text as prompt, got int"),
        (row(tie=LONG), "expected true or false for tie, got 'xxx"),
        ({LONG: 1}, "lacks prompt, chosen, rejected"),
        (row(id={"a": 1}), "expected a text as id, got dict"),
        (row(user=["ann"]), "expected a text as user, got list"),
        (row(prompt="\ud800"), "expected a text as prompt, got one that is not UTF-8"),
        (row(user="\udcff"), "expected a text as user, got one that is not UTF-8"),
        (row(chosen="\ud800.png"), "expected the path of a picture"),
        (row(chosen="a\udcff.png"), "cannot be read"),
        ('{"a": ' + "[" * 200_000, "nested too deeply"),
        ('{"id": ' + "9" * 100_000 + "}", "a number of too many digits"),
        ('{"prompt": "p", "chosen": NaN, "rejected": "b.png"}', "chosen: expected a path or the bytes .*, got float"),
        ('{"id": ' + "9" * 4000 + ', "prompt": 1, "chosen": "a.png", "rejected": "b.png"}', "Pair '9999.*got int"),
        (row(rejected="a.png"), "chosen and rejected are one and the same picture"),
    ],
)
def test_bad_rows_end_in_a_bounded_sentence_and_are_their_owners_alone(folder, bad, message):
    write(folder, bad)
    assert re.search(message, refusal(folder))
    assert len(preference_set_digest(folder)) == 64
    assert list(read_pairs(folder, skip_bad=True)) == []
    if isinstance(bad, dict) and "user" not in bad:
        write(folder, row(user="ann"), {**bad, "user": "bob"}, row(user="ann", id="last"))
        assert [pair.id for pair in read_pairs(folder, user="ann")] == ["row-1", "last"]


def test_the_same_picture_under_two_names_is_one(folder):
    (folder / "e.png").write_bytes((folder / "a.png").read_bytes())
    write(folder, row(), row(rejected="e.png", id="twin"), row(rejected="e.png", id="tied twin", tie=True))
    assert "Pair 'twin': chosen and rejected are one and the same picture" in refusal(folder)
    skipped = []
    assert [pair.id for pair in read_pairs(folder, skip_bad=True, skipped=skipped)] == ["row-1"]
    assert [error.pair_id for error in skipped] == ["twin", "tied twin"]


def test_endless_lines_are_refused(folder):
    write(folder, row(prompt="x" * 17_000_000))
    assert "has a line of more than 16,777,216 letters" in refusal(folder)


def test_pairs_files_that_are_links_out_are_refused(folder, tmp_path):
    write(folder, row())
    os.rename(folder / "pairs.jsonl", tmp_path / "elsewhere.jsonl")
    os.symlink(tmp_path / "elsewhere.jsonl", folder / "pairs.jsonl")
    with pytest.raises(PreferenceError, match="'pairs.jsonl' is a link out of the preference set's folder"):
        read_pairs(folder)
    with pytest.raises(PreferenceError, match="is a link out"):
        preference_set_digest(folder)


def parquet(rows, **options):
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = rows if isinstance(rows, arrow.Table) else arrow.Table.from_pylist(rows)
    buffer = io.BytesIO()
    writer.write_table(table, buffer, **options)
    return buffer.getvalue()


def picks(count=6):
    return [
        {
            "caption": f"a boat {number}",
            "jpg_0": encoded(2 * number, "JPEG"),
            "jpg_1": encoded(2 * number + 1, "JPEG"),
            "label_0": 1.0,
            "label_1": 0.0,
            "user_id": number % 2,
            "ranking_id": number,
        }
        for number in range(count)
    ]


def test_captions_that_are_not_utf8_concern_their_pair(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet(picks(), compression="none").replace(b"a boat 3", b"a bo\xe4t 3"))
    assert "Pair '3': expected a text as prompt, got a text that is not UTF-8" in refusal(tmp_path)
    assert [pair.id for pair in read_pairs(tmp_path, user="0")] == ["0", "2", "4"]
    assert [pair.id for pair in read_pairs(tmp_path, skip_bad=True)] == ["0", "1", "2", "4", "5"]


def test_times_beyond_the_calendar_concern_their_pair(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    table = arrow.Table.from_pylist(picks(2))
    times = arrow.array([0, 2**62], arrow.timestamp("us"))
    (tmp_path / "a.parquet").write_bytes(parquet(table.append_column("created_at", times)))
    assert "Pair '1': expected a text as created_at, got a value that is out of range" in refusal(tmp_path)


def test_parquet_of_other_columns_is_said(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet([{"text": "a boat"}]))
    assert "Pair 'row-1' lacks prompt, chosen, rejected" in refusal(tmp_path)


def test_others_broken_pictures_are_not_looked_at(tmp_path):
    rows = picks()
    rows[1]["jpg_0"] = b"torn"
    (tmp_path / "a.parquet").write_bytes(parquet(rows))
    assert [pair.id for pair in read_pairs(tmp_path, user="0")] == ["0", "2", "4"]
    assert "Pair '1', chosen" in refusal(tmp_path)


def outcome(path):
    """How many pairs were read, or the sentence; anything else fails."""
    started = time.perf_counter()
    found: int | str
    try:
        found = len(list(read_pairs(path, skip_bad=True)))
        preference_set_digest(path)
    except PreferenceError as error:
        found = sentence = str(error)
        assert len(sentence) <= LONGEST_MESSAGE and "\n" not in sentence
    assert time.perf_counter() - started < 5
    return found


def check_damaged(tmp_path, name, data, count):
    """Outcomes of reading `count` damaged files, in bounded memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = []
    for damaged in mutations(data, count):
        (tmp_path / name).write_bytes(damaged)
        found.append(outcome(tmp_path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    return found


@pytest.mark.parametrize("compression", ["none", "snappy"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
def test_damaged_parquet_ends_in_a_sentence(tmp_path, compression):
    data = parquet(picks(), compression=compression)
    found = check_damaged(tmp_path, "a.parquet", data, 150)
    assert sum(isinstance(one, str) for one in found) > 20 < sum(isinstance(one, int) for one in found)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
def test_damaged_jsonl_ends_in_a_sentence_or_lacks_pairs(folder):
    data = "".join(json.dumps(row(id=f"n{number}", user="ann")) + "\n" for number in range(4)).encode()
    found = check_damaged(folder, "pairs.jsonl", data, 200)
    assert set(found) == {0, 1, 2, 3, 4}


def test_damaged_lists_of_hpdv2_end_in_a_sentence_or_lack_pairs(folder):
    ranking = {"rank": [1, 2, 3, 4], "user_hash": "ann"}
    entry = {"prompt": "a boat", "image_path": ["a.png", "b.png", "c.png", "d.png"], "raw_annotations": [ranking]}
    found = check_damaged(folder, "test.json", json.dumps([entry, entry], indent=1).encode(), 200)
    assert sum(isinstance(one, str) for one in found) > 20 and {0, 6, 12} <= set(found)


@pytest.mark.parametrize("damaged", ["ratings.parquet", "metadata.parquet"])
def test_damaged_ratings_end_in_a_sentence_or_lack_pairs(folder, damaged):
    os.mkdir(folder / "part-000001")
    for name in "abcd":
        os.rename(folder / f"{name}.png", folder / "part-000001" / f"{name}.png")
    tables = {
        "ratings.parquet": [
            {"id": name, "rating": rating, "user_id": "ann", "kudos": 1.0} for rating, name in enumerate("abcd")
        ],
        "metadata.parquet": [{"image_name": f"{name}.png", "prompt": "a boat", "part_id": 1} for name in "abcd"],
    }
    for name, rows in tables.items():
        (folder / name).write_bytes(parquet(rows))
    assert outcome(folder) == 6
    found = check_damaged(folder, damaged, parquet(tables[damaged]), 150)
    assert sum(isinstance(one, str) for one in found) > 20 and sum(isinstance(one, int) for one in found) > 5
