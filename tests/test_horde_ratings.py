"""AI-Horde-Ratings: pairs within a prompt, from real parquet files beside a small DiffusionDB."""

import os
from uuid import UUID

import numpy as np
import pytest
from PIL import Image

from ppd.pair_digest import preference_set_digest
from ppd.pairs import PreferenceError, read_pairs

arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
PROMPTS = ["a boat", "a boat", "a boat", "a tree", "a tree", "a cat"]
NAMES = [str(UUID(int=number)) for number in range(len(PROMPTS))]
ANN, BOB = "a" * 64, "b" * 64


def rating(picture, value, user=ANN, **more):
    return {"id": NAMES[picture], "rating": value, "user_id": user, "artifacts": 0, "kudos": 10.0, **more}


def set_of(folder, ratings, images="images", ending="png", table="metadata.parquet"):
    for number, name in enumerate(NAMES):
        file = folder / images / f"part-{number % 2 + 1:06d}" / f"{name}.{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(file)
    rows = [
        {"image_name": f"{name}.{ending}", "prompt": prompt, "part_id": number % 2 + 1, "seed": 1}
        for number, (name, prompt) in enumerate(zip(NAMES, PROMPTS, strict=True))
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), folder / table)
    parquet.write_table(arrow.Table.from_pylist(ratings), folder / "diffusiondb_export.parquet")
    return folder


def told(pairs):
    number = {name: place for place, name in enumerate(NAMES)}
    return sorted((p.user, p.prompt, number[p.chosen.path.stem], number[p.rejected.path.stem]) for p in pairs)


def test_within_a_prompt_the_better_rated_is_chosen(tmp_path):
    ratings = [
        *(rating(0, 7), rating(3, 2), rating(1, 9), rating(2, 7)),  # equal ones say nothing
        *(rating(4, 10, BOB), rating(3, 1, BOB), rating(5, 3, BOB), rating(0, 1, BOB)),
    ]
    pairs = list(read_pairs(set_of(tmp_path, ratings)))
    assert told(pairs) == [(ANN, "a boat", 1, 0), (ANN, "a boat", 1, 2), (BOB, "a tree", 4, 3)]
    assert all(pair.outcome == 1 and not pair.tie for pair in pairs) and len({pair.id for pair in pairs}) == 3
    assert told(read_pairs(tmp_path / "diffusiondb_export.parquet", user=BOB)) == [(BOB, "a tree", 4, 3)]


@pytest.mark.parametrize(
    ("images", "ending", "table"),
    [
        ("", "png", "metadata.parquet"),
        ("diffusiondb-large-part-2", "webp", "metadata-large.parquet"),
    ],
)
def test_both_sizes_of_diffusiondb_as_they_are_unpacked(tmp_path, images, ending, table):
    folder = set_of(tmp_path, [rating(0, 1), rating(1, 3)], images, ending, table)
    (pair,) = read_pairs(folder)
    assert pair.chosen.path == folder.resolve() / images / "part-000002" / f"{NAMES[1]}.{ending}"


def test_the_later_rating_stands_and_nobody_in_particular_is_passed_over(tmp_path):
    ratings = [rating(0, 9), rating(1, 5), rating(0, 2), rating(2, 8, kudos=-50.0), rating(3, None), rating(4, 1)]
    ratings.append(rating(2, 10) | {"id": str(UUID(int=99))})  # of no table
    assert told(read_pairs(set_of(tmp_path, ratings))) == [(ANN, "a boat", 1, 0)]


def test_ratings_that_are_no_numbers_are_refused(tmp_path):
    with pytest.raises(PreferenceError, match=r"'diffusiondb_export.parquet' has string as rating, expected numbers"):
        list(read_pairs(set_of(tmp_path, [rating(0, "good"), rating(1, "bad")])))


def test_a_set_without_pairs_and_one_without_kudos(tmp_path):
    assert list(read_pairs(set_of(tmp_path, [rating(0, 1), rating(3, 5)]))) == []
    ratings = [{key: value for key, value in rating(n, n).items() if key != "kudos"} for n in (0, 1)]
    assert told(read_pairs(set_of(tmp_path, ratings))) == [(ANN, "a boat", 1, 0)]


def test_against_every_pair_written_out(tmp_path):
    rng = np.random.default_rng(0)
    drawn = [(int(rng.integers(6)), float(rng.integers(11)), f"{int(rng.integers(5)):064d}") for _ in range(60)]
    stands = {(user, picture): value for picture, value, user in drawn}
    expected = [
        (user, PROMPTS[one], one, other)
        for (user, one), value in stands.items()
        for (another, other), less in stands.items()
        if user == another and PROMPTS[one] == PROMPTS[other] and value > less
    ]
    assert len(expected) > 10
    assert told(read_pairs(set_of(tmp_path, [rating(*one) for one in drawn]))) == sorted(expected)


def test_pictures_that_were_not_downloaded_are_left_out_on_request(tmp_path):
    folder = set_of(tmp_path, [rating(0, 1), rating(1, 3), rating(2, 2)])
    os.remove(folder / "images" / "part-000001" / f"{NAMES[0]}.png")
    with pytest.raises(PreferenceError, match="cannot be read"):
        list(read_pairs(folder))
    assert told(read_pairs(folder, skip_bad=True)) == [(ANN, "a boat", 1, 2)]


def test_what_is_missing_is_said(tmp_path):
    folder = set_of(tmp_path, [rating(0, 1), rating(1, 3)])
    parquet.write_table(arrow.table({"image_name": ["x.png"], "prompt": ["p"]}), folder / "metadata.parquet")
    with pytest.raises(PreferenceError, match=r"'metadata.parquet' lacks part_id: download DiffusionDB's own table"):
        list(read_pairs(folder))
    parquet.write_table(
        arrow.table({"image_name": ["x.png"], "prompt": ["p"], "part_id": ["one"]}), folder / "metadata.parquet"
    )
    with pytest.raises(PreferenceError, match=r"'metadata.parquet' has string as part_id, expected numbers"):
        list(read_pairs(folder))
    before = preference_set_digest(folder)
    os.remove(folder / "metadata.parquet")
    with pytest.raises(PreferenceError, match=r"no metadata.parquet lies beside it: put that there"):
        list(read_pairs(folder))
    assert preference_set_digest(folder) != before


def test_cancelling_before_the_first_pair(tmp_path):
    calls = []

    def cancel(rows):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(read_pairs(set_of(tmp_path, [rating(0, 1), rating(1, 3)]), progress=cancel))
    assert calls == [0, 0, 0]
