"""HPDv2's lists: pairs of train.json, rankings of test.json, damage."""

import json

import pytest
from PIL import Image

from ppd.encoders.choices import numbered
from ppd.pair_digest import preference_set_digest
from ppd.pairs import PreferenceError, read_pairs

TRAIN = [
    {"prompt": "a boat", "file_path": ["0.jpg", "1.jpg"], "human_preference": [0, 1]},
    {"prompt": "a héron", "file_path": ["2.jpg", "3.jpg"], "human_preference": [1, 0]},
]
TEST = [
    {
        "prompt": "a boat",
        "image_path": ["0.jpg", "1.jpg", "2.jpg", "3.jpg"],
        "rank": [1, 0, 2, 3],
        "raw_annotations": [
            {"rank": [3, 1, 2, 4], "user_hash": "ann"},
            {"rank": [1, 1, 2, 2], "user_hash": "bob"},
        ],
    }
]


def folder_of(tmp_path, below="", **lists):
    (tmp_path / below).mkdir(exist_ok=True)
    for number in range(4):
        Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(tmp_path / below / f"{number}.jpg")
    for name, entries in lists.items():
        text = entries if isinstance(entries, str) else json.dumps(entries, indent=1, ensure_ascii=False)
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    return tmp_path


def told(pairs):
    return [(pair.chosen.path.stem, pair.rejected.path.stem) for pair in pairs]


@pytest.mark.parametrize("below", ["", "train"])
def test_train_is_pairs_of_nobody(tmp_path, below):
    folder = folder_of(tmp_path, below, train=TRAIN)
    pairs = list(read_pairs(folder / "train.json"))
    assert told(pairs) == [("1", "0"), ("2", "3")]
    assert [(pair.id, pair.prompt, pair.user, pair.choice) for pair in pairs] == [
        ("1", "a boat", None, None),
        ("2", "a héron", None, None),
    ]
    assert list(read_pairs(folder)) == pairs


def test_rankings_are_sequences_of_choices(tmp_path):
    pairs = list(read_pairs(folder_of(tmp_path, "test", test=TEST)))
    ann, bob = ([pair for pair in pairs if pair.user == user] for user in ("ann", "bob"))
    assert told(ann) == [("1", "0"), ("1", "2"), ("1", "3"), ("2", "0"), ("2", "3"), ("0", "3")]
    assert numbered([pair.choice for pair in ann]).tolist() == [0, 0, 0, 3, 3, 5]
    assert told(bob) == [("0", "2"), ("0", "3"), ("1", "2"), ("1", "3")]  # equal ranks are not compared
    assert len({pair.id for pair in pairs}) == 10
    assert list(read_pairs(tmp_path, user="bob")) == bob


def test_a_list_far_longer_than_a_block_is_read_entry_by_entry(tmp_path):
    entries = [TRAIN[0] | {"prompt": f"number {number}" + "," * (number % 200)} for number in range(3000)]
    entries[7]["prompt"] = "x" * 500_000  # longer than a block
    folder = folder_of(tmp_path, train=entries)
    pairs = read_pairs(folder, check_pictures=False)
    assert [pair.prompt for pair in pairs] == [entry["prompt"] for entry in entries]
    (folder / "train.json").write_text(json.dumps(entries)[:-40_000])
    pairs = read_pairs(folder, check_pictures=False)
    assert next(pairs).prompt == "number 0"
    with pytest.raises(PreferenceError, match=r"'train.json' is damaged JSON: download it again"):
        list(pairs)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (TRAIN[0] | {"human_preference": [1, 1]}, "expected file_path, a list of pictures, and human_preference"),
        (TRAIN[0] | {"file_path": ["0.jpg"]}, "expected file_path, a list of pictures"),
        (TRAIN[0] | {"prompt": 3}, "expected a text as prompt, got int"),
        (TEST[0] | {"image_path": None}, "expected image_path, a list of pictures"),
        (TEST[0] | {"raw_annotations": [{"rank": [1, 2], "user_hash": "x"}]}, "expected rank, 4 numbers"),
        (["a"], "is no object with a prompt"),
        (TRAIN[0] | {"file_path": ["../0.jpg", "1.jpg"]}, "inside the preference set's folder"),
    ],
)
def test_bad_entries_are_named_and_skipped(tmp_path, entry, message):
    folder = folder_of(tmp_path, train=[entry, TRAIN[1]])
    with pytest.raises(PreferenceError, match=message):
        list(read_pairs(folder))
    assert told(read_pairs(folder, skip_bad=True)) == [("2", "3")]
    assert len(preference_set_digest(folder)) == 64


@pytest.mark.parametrize("text", ["{}", "", "12"])
def test_what_is_no_list_is_refused(tmp_path, text):
    with pytest.raises(PreferenceError, match=r"'train.json' is no list of JSON: expected HPDv2's"):
        list(read_pairs(folder_of(tmp_path, train=text)))


def test_the_digest_follows_the_pictures(tmp_path):
    folder = folder_of(tmp_path, "test", test=TEST)
    before = preference_set_digest(folder)
    Image.new("RGB", (9, 9)).save(folder / "test" / "3.jpg")
    assert preference_set_digest(folder) != before
