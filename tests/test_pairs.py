"""Preference sets: readers, writers, what they refuse, and their fingerprint."""

import hashlib
import io
import json
import os
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from PIL import Image

from ppd.pair_digest import preference_set_digest
from ppd.pairs import (
    Picture,
    PreferenceError,
    PreferencePair,
    disjoint,
    read_pairs,
    write_pairs,
)


def encoded(color, kind="PNG", size=(8, 6), noise=None):
    image = Image.new("RGB", size, color)
    if noise is not None:
        pixels = np.random.default_rng(noise).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def folder_of(tmp_path, rows, pictures=("a", "b", "c", "d")):
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate(pictures):
        (folder / "images" / f"{name}.png").write_bytes(encoded((40 * number, 0, 0)))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def row(chosen="a", rejected="b", **more):
    return {"prompt": "a boat", "chosen": f"images/{chosen}.png", "rejected": f"images/{rejected}.png", **more}


def test_folder_in_order_with_every_field(tmp_path):
    rows = [
        row(id="first", user="u1", created="2025-01-02", tie=False),
        row("c", "d", prompt="ein Böot", tie=True),
        row("b", "a", id=7),
    ]
    pairs = list(read_pairs(folder_of(tmp_path, rows)))
    assert [pair.id for pair in pairs] == ["first", "row-2", "7"]
    assert [pair.tie for pair in pairs] == [False, True, False]
    assert pairs[0].user == "u1" and pairs[0].created == "2025-01-02" and pairs[1].user is None
    assert pairs[1].prompt == "ein Böot"
    assert pairs[0].chosen.open().getpixel((0, 0)) == (0, 0, 0)
    assert pairs[0].rejected.open().getpixel((0, 0)) == (40, 0, 0)
    assert list(read_pairs(tmp_path / "set" / "pairs.jsonl")) == pairs


def test_reading_is_streaming(tmp_path):
    folder = folder_of(tmp_path, [row(), row(chosen="missing")])
    pairs = read_pairs(folder)
    assert next(pairs).id == "row-1"
    with pytest.raises(PreferenceError, match="row-2"):
        next(pairs)


def test_one_user_only_and_blank_lines(tmp_path):
    folder = folder_of(tmp_path, [row(user="x"), row(user="y"), row(user="x")])
    text = (folder / "pairs.jsonl").read_text()
    (folder / "pairs.jsonl").write_text("\ufeff" + text.replace("\n", "\n\n"), encoding="utf-8")
    assert [pair.id for pair in read_pairs(folder, user="x")] == ["row-1", "row-3"]


def test_empty_set_is_no_error(tmp_path):
    assert list(read_pairs(folder_of(tmp_path, []))) == []


def test_digest_is_the_files_sha256():
    assert Picture(data=b"abc").digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digest_of_a_file_follows_its_content(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"abc")
    assert Picture(file).digest == hashlib.sha256(b"abc").hexdigest()
    file.write_bytes(b"abcd")
    assert Picture(file).digest == hashlib.sha256(b"abcd").hexdigest()


def test_a_picture_is_a_path_or_bytes():
    with pytest.raises(PreferenceError, match="exactly one"):
        Picture()


def test_from_image_is_lossless():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8))
    assert np.array_equal(np.array(Picture.from_image(image).open()), np.array(image))


def test_exif_orientation_is_applied():
    image, buffer = Image.new("RGB", (10, 4)), io.BytesIO()
    exif = image.getexif()
    exif[274] = 6
    image.save(buffer, "JPEG", exif=exif)
    assert Picture(data=buffer.getvalue()).open().size == (4, 10)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncated_pictures_are_found(kind):
    data = encoded(None, kind, (64, 64), noise=1)
    Picture(data=data).check()
    with pytest.raises(PreferenceError, match="cannot be decoded"):
        Picture(data=data[: len(data) // 2]).check()


def test_formats_outside_the_list_are_refused():
    with pytest.raises(PreferenceError, match="cannot be decoded"):
        Picture(data=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n").open()


def test_bad_pictures_are_named_and_skipped_on_request(tmp_path, caplog):
    folder = folder_of(
        tmp_path, [row(id="good"), row("gone", id="lost"), row("a", "torn", id="broken"), row(id="last")]
    )
    (folder / "images" / "torn.png").write_bytes(encoded((1, 2, 3))[:40])
    with pytest.raises(PreferenceError, match=r"Pair 'lost', chosen: the picture 'gone.png' cannot be read") as caught:
        list(read_pairs(folder))
    assert caught.value.pair_id == "lost"
    skipped = []
    assert [pair.id for pair in read_pairs(folder, skip_bad=True, skipped=skipped)] == ["good", "last"]
    assert [error.pair_id for error in skipped] == ["lost", "broken"]
    assert "'torn.png' cannot be decoded" in str(skipped[1]) and "rejected" in str(skipped[1])
    assert "lost" in caplog.text
    assert len(list(read_pairs(folder, check_pictures=False))) == 4


def test_a_picture_that_breaks_later_is_found_again(tmp_path):
    folder = folder_of(tmp_path, [row()])
    assert len(list(read_pairs(folder))) == 1
    (folder / "images" / "a.png").write_bytes(b"no picture")
    with pytest.raises(PreferenceError, match="row-1"):
        list(read_pairs(folder))


@pytest.mark.parametrize(
    "value",
    ["../outside.png", "images/../../outside.png", "..\\outside.png", "/etc/passwd", "C:\\secret.png", "", ".", "a\0b"],
)
def test_paths_outside_the_folder_are_refused(tmp_path, value):
    (tmp_path / "outside.png").write_bytes(encoded((0, 0, 0)))
    folder = folder_of(tmp_path, [{"prompt": "p", "chosen": value, "rejected": "images/a.png"}])
    with pytest.raises(PreferenceError, match="row-1.*inside the preference set's folder"):
        list(read_pairs(folder))
    preference_set_digest(folder)


def test_links_out_of_the_folder_are_refused(tmp_path):
    (tmp_path / "outside.png").write_bytes(encoded((0, 0, 0)))
    folder = folder_of(tmp_path, [row("link")])
    os.symlink(tmp_path / "outside.png", folder / "images" / "link.png")
    with pytest.raises(PreferenceError, match="inside the preference set's folder"):
        list(read_pairs(folder))


def test_backslashes_and_inner_dots_stay_usable(tmp_path):
    folder = folder_of(tmp_path, [{"prompt": "p", "chosen": "images\\a.png", "rejected": "images/../images/b.png"}])
    (pair,) = read_pairs(folder)
    assert [pair.chosen.path.name, pair.rejected.path.name] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", r"row-1.*not a line of JSON \(Expecting property name enclosed in double quotes\)\."),
        ("[1, 2]", "row-1.*not a JSON object"),
        ('{"prompt": "p", "chosen": "images/a.png"}', "row-1.*lacks rejected.*got prompt, chosen"),
        (
            '{"id": "x", "prompt": 3, "chosen": "images/a.png", "rejected": "images/b.png"}',
            "'x'.*text as prompt, got int",
        ),
        ('{"prompt": "p", "chosen": 5, "rejected": "images/b.png"}', "chosen: expected a path.*got int"),
        ('{"prompt": "p", "chosen": null, "rejected": "images/b.png"}', "chosen: expected a path.*got nothing"),
        ('{"prompt": "p", "chosen": "images/a.png", "rejected": "images/b.png", "tie": 0.5}', "true or false for tie"),
    ],
)
def test_malformed_rows(tmp_path, line, message):
    folder = folder_of(tmp_path, [])
    (folder / "pairs.jsonl").write_text(line + "\n" + json.dumps(row()) + "\n")
    with pytest.raises(PreferenceError, match=message):
        list(read_pairs(folder))
    assert [pair.id for pair in read_pairs(folder, skip_bad=True)] == ["row-2"]
    assert len(preference_set_digest(folder)) == 64


@pytest.mark.parametrize("name", ["nothing", "set.txt", "set.jsonl", "set.parquet"])
def test_missing_sets_are_refused_at_once(tmp_path, name):
    with pytest.raises(PreferenceError, match=r"Expected a folder|There is no preference set"):
        read_pairs(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PreferenceError, match="expected pairs.jsonl"):
        read_pairs(tmp_path / "empty")


def test_text_that_is_not_utf8(tmp_path):
    folder = folder_of(tmp_path, [])
    lines = [json.dumps(row(user=user)).encode() for user in ("x", "y", "x")]
    lines[1] = lines[1].replace(b"boat", b"bo\xe4t")
    (folder / "pairs.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(PreferenceError, match="'row-2'.*expected a text as prompt, got one that is not UTF-8"):
        list(read_pairs(folder))
    assert [pair.id for pair in read_pairs(folder, user="x")] == ["row-1", "row-3"]
    (folder / "pairs.jsonl").write_bytes(json.dumps(row()).encode("utf-16"))
    with pytest.raises(PreferenceError, match="'row-1' is not UTF-8 text: save the file as UTF-8 JSON lines"):
        list(read_pairs(folder))


def test_write_and_read_back(tmp_path):
    jpeg, png = Picture(data=encoded((9, 9, 9), "JPEG")), Picture(data=encoded((1, 1, 1)))
    pairs = [
        PreferencePair("a boat", jpeg, png, "one", user="u", created="2025-03-04"),
        PreferencePair("größer", png, jpeg, "two", tie=True),
    ]
    write_pairs(tmp_path / "set", iter(pairs))
    assert sorted(file.name for file in (tmp_path / "set").rglob("*.*")) == sorted(
        ["pairs.jsonl", f"{jpeg.digest}.jpg", f"{png.digest}.png"]
    )
    back = list(read_pairs(tmp_path / "set"))
    assert [(p.prompt, p.id, p.user, p.created, p.tie) for p in back] == [
        ("a boat", "one", "u", "2025-03-04", False),
        ("größer", "two", None, None, True),
    ]
    assert [pair.chosen.read() for pair in back] == [jpeg.data, png.data]
    before = (tmp_path / "set" / "pairs.jsonl").read_bytes()
    write_pairs(tmp_path / "set", read_pairs(tmp_path / "set"))  # onto itself
    assert (tmp_path / "set" / "pairs.jsonl").read_bytes() == before


def test_pairs_of_one_choice_share_their_chosen_picture_and_come_back(tmp_path):
    rows = [row(choice="x", user="u"), row(), row("a", "c", choice="x", user="u"), row("b", "c", choice="x", user="v")]
    folder = folder_of(tmp_path, rows)
    pairs = list(read_pairs(folder))
    assert [pair.choice for pair in pairs] == ["x", None, "x", "x"]
    write_pairs(tmp_path / "again", pairs)
    assert [pair.choice for pair in read_pairs(tmp_path / "again")] == ["x", None, "x", "x"]
    before = preference_set_digest(folder)
    text = (folder / "pairs.jsonl").read_text()
    (folder / "pairs.jsonl").write_text(text.replace('"choice": "x", ', '"choice": "y", ').replace('"x"', '"y"'))
    assert [pair.choice for pair in read_pairs(folder)] == ["y", None, "y", "y"]
    assert preference_set_digest(folder) != before


def test_a_choice_with_two_chosen_pictures_or_a_tie_is_refused_by_name(tmp_path):
    folder = folder_of(tmp_path, [row(choice="x"), row("c", "d", choice="x"), row("a", "d", choice="x", tie=True)])
    with pytest.raises(PreferenceError, match="Pair 'row-2' has another chosen picture than pair 'row-1' of the same"):
        list(read_pairs(folder))
    skipped = []
    assert [pair.id for pair in read_pairs(folder, skip_bad=True, skipped=skipped)] == ["row-1"]
    assert [error.pair_id for error in skipped] == ["row-2", "row-3"]
    assert "Pair 'row-3' is a tie of the choice 'x', expected a chosen picture" in str(skipped[1])
    with pytest.raises(PreferenceError, match="expected a text as choice, got dict"):
        list(read_pairs(folder_of(tmp_path / "other", [row(choice={"id": 1})])))
    first = next(read_pairs(folder))
    with pytest.raises(PreferenceError, match="Pair 'again' has another chosen picture"):
        write_pairs(tmp_path / "w", [first, replace(first, chosen=first.rejected, rejected=first.chosen, id="again")])
    assert not (tmp_path / "w" / "pairs.jsonl").exists()


def test_a_failed_write_leaves_the_old_set(tmp_path):
    good = PreferencePair("p", Picture(data=encoded((1, 1, 1))), Picture(data=encoded((2, 2, 2))), "good")
    write_pairs(tmp_path / "set", [good])
    bad = PreferencePair("p", good.chosen, Picture(data=b"no picture"), "bad")
    with pytest.raises(PreferenceError, match="Pair 'bad', rejected"):
        write_pairs(tmp_path / "set", [good, good, bad])
    assert [pair.id for pair in read_pairs(tmp_path / "set")] == ["good"]
    assert not list((tmp_path / "set").rglob("*.part"))


def pick_a_pic(file, rows):
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    parquet.write_table(arrow.Table.from_pylist(rows), file)
    return file


def pick(caption, label_0, **more):
    return {
        "caption": caption,
        "jpg_0": encoded((0, 0, 0), "JPEG"),
        "jpg_1": encoded((250, 250, 250), "JPEG"),
        "label_0": label_0,
        "label_1": 1 - label_0,
        "user_id": 12,
        "has_label": True,
        "are_different": True,
        "ranking_id": 900,
        "created_at": datetime(2023, 4, 5, 6, 7),
        **more,
    }


def test_pick_a_pic_rows(tmp_path):
    rows = [
        pick("first", 1.0),
        pick("second", 0.0, user_id=13, ranking_id=901),
        pick("tie", 0.5),
        pick("unlabelled", 0.0, has_label=False),
        pick("same", 0.5, are_different=False),
    ]
    file = pick_a_pic(tmp_path / "picks.parquet", rows)
    pairs = list(read_pairs(file))
    assert [(pair.prompt, pair.tie, pair.user, pair.id) for pair in pairs] == [
        ("first", False, "12", "900"),
        ("second", False, "13", "901"),
        ("tie", True, "12", "900"),
    ]
    assert pairs[0].created == "2023-04-05T06:07:00"
    assert [np.asarray(pair.chosen.open())[0, 0, 0] for pair in pairs] == [0, 250, 0]
    assert [pair.prompt for pair in read_pairs(file, user="13")] == ["second"]


def test_pick_a_pic_bad_labels_and_pictures(tmp_path):
    labels = [(0.7, 0.7), (1.0, 1.0), (0.0, 0.0), (-0.5, 1.5), (float("nan"), 1.0)]
    rows = [pick("odd", first, label_1=second) for first, second in labels]
    file = pick_a_pic(tmp_path / "p.parquet", [*rows, pick("torn", 1.0, jpg_1=b"torn", ranking_id=5)])
    skipped = []
    assert list(read_pairs(file, skip_bad=True, skipped=skipped)) == []
    assert len(skipped) == 6
    assert "expected labels that are shares of 1, such as 1/0, 0.3/0.7 or 0.5/0.5 (a tie), got 0.7" in str(skipped[0])
    assert skipped[-1].pair_id == "5" and "rejected" in str(skipped[-1])


def test_soft_labels_of_pick_a_pic_say_how_sure_and_who(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [pick(str(label), label) for label in (0.3, 0.7, 1.0, 0.0, 0.5, 0.4999)]
    table = arrow.Table.from_pylist(rows)
    for name in ("label_0", "label_1"):  # as the set itself has them
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(arrow.float32()))
    parquet.write_table(table, tmp_path / "p.parquet")
    pairs = list(read_pairs(tmp_path / "p.parquet"))
    assert [pair.outcome for pair in pairs] == [0.7, 0.7, 1.0, 1.0, 0.5, 0.5]
    assert [pair.tie for pair in pairs] == [False] * 4 + [True] * 2
    assert [np.asarray(pair.chosen.open())[0, 0, 0] for pair in pairs[:4]] == [250, 0, 0, 250]


def test_soft_labels_are_written_and_read_back(tmp_path):
    folder = folder_of(
        tmp_path, [row(probability=0.7), row(probability=1), row(probability=0.5), row(), row(probability=None)]
    )
    pairs = list(read_pairs(folder))
    assert [pair.outcome for pair in pairs] == [0.7, 1, 0.5, 1, 1]
    assert [pair.tie for pair in pairs] == [False, False, True, False, False]
    write_pairs(tmp_path / "again", pairs)
    lines = [json.loads(line) for line in (tmp_path / "again" / "pairs.jsonl").read_text().splitlines()]
    assert [one.get("probability") for one in lines] == [0.7, None, None, None, None]
    assert [one.get("tie") for one in lines] == [None, None, True, None, None]
    assert [pair.outcome for pair in read_pairs(tmp_path / "again")] == [0.7, 1, 0.5, 1, 1]


@pytest.mark.parametrize("probability", [0.3, 1.2, True, "0.7", float("nan"), [0.7]])
def test_probabilities_that_are_none_are_refused(tmp_path, probability):
    folder = folder_of(tmp_path, [row(probability=probability)])
    with pytest.raises(PreferenceError, match=r"'row-1': expected a number from 0.5 to 1 as probability"):
        list(read_pairs(folder))


def test_a_soft_label_in_a_choice_is_refused(tmp_path):
    folder = folder_of(tmp_path, [row(choice="x", probability=0.7)])
    with pytest.raises(PreferenceError, match="is a soft label of the choice 'x', expected a chosen picture"):
        list(read_pairs(folder))


def test_lists_of_one_picture_are_read(tmp_path):
    first, second = encoded((1, 1, 1)), encoded((2, 2, 2))
    rows = [{"prompt": "p", "chosen": [{"bytes": first, "path": None}], "rejected": [{"bytes": second, "path": "x"}]}]
    (pair,) = read_pairs(pick_a_pic(tmp_path / "lists.parquet", rows))
    assert (pair.chosen.data, pair.rejected.data) == (first, second)
    folder = folder_of(tmp_path, [row() | {"chosen": ["images/a.png"]}])
    (pair,) = read_pairs(folder)
    assert pair.chosen.path.name == "a.png"
    for number, bad in enumerate(([], ["images/a.png", "images/c.png"])):
        folder = folder_of(tmp_path / str(number), [row() | {"chosen": bad}])
        with pytest.raises(PreferenceError, match=f"chosen: expected one picture, got a list of {len(bad)}"):
            list(read_pairs(folder))


def test_trl_parquet_with_images_and_shards_in_order(tmp_path):
    def trl(prompt):
        return {
            "prompt": prompt,
            "chosen": {"bytes": encoded((1, 1, 1)), "path": "x.png"},
            "rejected": {"bytes": encoded((2, 2, 2)), "path": None},
        }

    pick_a_pic(tmp_path / "b.parquet", [trl("third") | {"choice": "x"}])
    pick_a_pic(tmp_path / "a.parquet", [trl("first"), trl("second")])
    pairs = list(read_pairs(tmp_path))
    assert [pair.choice for pair in pairs] == [None, None, "x"]
    assert [(pair.prompt, pair.id) for pair in pairs] == [("first", "row-1"), ("second", "row-2"), ("third", "row-3")]
    assert pairs[0].chosen.open().getpixel((0, 0)) == (1, 1, 1)


def test_of_a_large_parquet_little_is_in_memory_at_a_time(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    rows = [pick(str(number), 1.0, jpg_0=rng.bytes(150_000), jpg_1=rng.bytes(150_000)) for number in range(240)]
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "p.parquet", row_group_size=20)
    assert (tmp_path / "p.parquet").stat().st_size > 70e6
    del rows
    before, held = arrow.total_allocated_bytes(), []
    for _ in read_pairs(tmp_path / "p.parquet", check_pictures=False):
        held.append(arrow.total_allocated_bytes() - before)
    assert len(held) == 240 and max(held) < 35e6 and max(held[200:]) < 1.5 * max(held[:60])


def test_parquet_that_is_none(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(PreferenceError, match="not a readable parquet"):
        list(read_pairs(tmp_path / "x.parquet"))
    assert len(preference_set_digest(tmp_path / "x.parquet")) == 64


def test_reading_can_be_cancelled_among_rows_of_others(tmp_path):
    folder = folder_of(tmp_path, [row(user="ann")] * 10 + [row(chosen="gone")] * 5)
    seen = []

    def cancel(rows):
        seen.append(rows)
        if rows == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(read_pairs(folder, user="bob", progress=cancel))
    assert seen == list(range(8))
    with pytest.raises(KeyboardInterrupt):
        list(read_pairs(folder, skip_bad=True, progress=cancel))


def test_disjoint_by_picture_and_caption():
    pictures = [Picture(data=encoded((number, 0, 0))) for number in range(8)]
    support = [PreferencePair("A  boat", pictures[0], pictures[1], "s")]
    query = [
        PreferencePair("a house", pictures[2], pictures[3], "kept"),
        PreferencePair("a tree", pictures[1], pictures[4], "shares a picture"),
        PreferencePair("a tree", pictures[5], pictures[0], "shares the other"),
        PreferencePair("a Boat ", pictures[6], pictures[7], "shares the caption"),
        PreferencePair("a tree", pictures[6], pictures[7], "s"),
    ]
    assert [pair.id for pair in disjoint(support, query)] == ["kept", "s"]


def test_what_is_no_picture_is_said_in_words(tmp_path):
    folder = folder_of(tmp_path, [row()])
    (folder / row()["chosen"]).write_text("not a picture")
    with pytest.raises(
        PreferenceError, match=r"cannot be decoded \(it is no PNG, JPEG, WEBP, BMP, GIF, TIFF picture\)"
    ):
        list(read_pairs(folder))
