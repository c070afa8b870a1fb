"""The fingerprint of a preference set: what it follows, and what it costs."""

import json
import os
import time

from ppd.pair_digest import preference_set_digest
from ppd.pairs import read_pairs
from tests.slowness import slowness
from tests.test_pairs import encoded, folder_of, pick_a_pic, row


def test_set_digest_follows_rows_and_pictures(tmp_path):
    folder = folder_of(tmp_path, [row(), row("c", "gone")])
    digests = [preference_set_digest(folder)]
    assert preference_set_digest(folder) == digests[0]
    (folder / "images" / "gone.png").write_bytes(encoded((7, 7, 7)))
    digests.append(preference_set_digest(folder))
    (folder / "images" / "a.png").write_bytes(encoded((8, 8, 8)))
    digests.append(preference_set_digest(folder))
    (folder / "images" / "d.png").write_bytes(encoded((9, 9, 9)))  # in no pair
    assert preference_set_digest(folder) == digests[-1]
    (folder / "pairs.jsonl").write_text(json.dumps(row("b", "a")) + "\n")
    digests.append(preference_set_digest(folder))
    assert len(set(digests)) == 4


def test_set_digest_follows_pictures_named_in_parquet(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded((1, 1, 1)))
    (tmp_path / "b.png").write_bytes(encoded((2, 2, 2)))
    file = pick_a_pic(tmp_path / "p.parquet", [{"prompt": "p", "chosen": "a.png", "rejected": "b.png"}])
    assert [pair.chosen.path.name for pair in read_pairs(file)] == ["a.png"]
    before = preference_set_digest(file)
    (tmp_path / "b.png").write_bytes(encoded((3, 3, 3), size=(9, 9)))
    assert preference_set_digest(file) != before


def test_digest_of_a_thousand_pairs_is_fast_the_second_time(tmp_path):
    names = [f"p{number}" for number in range(2000)]
    rows = [row(names[2 * number], names[2 * number + 1]) for number in range(1000)]
    folder = folder_of(tmp_path, rows, names)
    first = preference_set_digest(folder)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        assert preference_set_digest(folder) == first
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.1 * slowness()


def test_digest_of_a_large_file_takes_no_time_and_follows_its_size_its_time_and_its_ends(tmp_path):
    file = tmp_path / "large.parquet"
    file.write_bytes(b"head")
    os.truncate(file, 3 << 30)  # holes, which take no room on the disk
    start = time.process_time()
    found = [preference_set_digest(file)]
    assert time.process_time() - start < 0.1 * slowness()

    def change(place, value, moment):
        with file.open("r+b") as data:
            data.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
            data.write(value)
        os.utime(file, ns=(moment, moment))

    for place, value, moment in [(0, b"HEAD", 10**18), (-4, b"PAR1", 10**18), (1 << 30, b"x", 10**18 + 1)]:
        change(place, value, moment)
        found.append(preference_set_digest(file))
    assert preference_set_digest(file) == found[-1]
    os.truncate(file, (3 << 30) - 1)
    os.utime(file, ns=(10**18 + 1, 10**18 + 1))
    found.append(preference_set_digest(file))
    assert len(set(found)) == 5


def test_digest_of_many_pictures_reads_none_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("ppd.pair_digest.MANY", 3)
    folder = folder_of(tmp_path, [row(), row("c", "d")])
    for name in "abcd":  # that no content could be had of
        os.truncate(folder / "images" / f"{name}.png", 1 << 36)
    before = preference_set_digest(folder)
    os.utime(folder / "images" / "d.png", ns=(1, 1))
    assert preference_set_digest(folder) != before


def test_a_thousand_ratings_cost_no_look_at_diffusiondb(tmp_path):
    file = pick_a_pic(tmp_path / "ratings.parquet", [{"id": "a", "rating": 1, "user_id": "ann"}] * 1000)
    (tmp_path / "metadata.parquet").write_bytes(b"")
    os.truncate(tmp_path / "metadata.parquet", 3 << 30)
    start = time.process_time()
    found = [preference_set_digest(tmp_path)]
    assert time.process_time() - start < 0.1 * slowness()
    os.utime(tmp_path / "metadata.parquet", ns=(1, 1))
    found.append(preference_set_digest(tmp_path))
    os.utime(file, ns=(1, 1))
    found.append(preference_set_digest(tmp_path))
    assert len(set(found)) == 3
