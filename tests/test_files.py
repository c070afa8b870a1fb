"""Files written in one step, and digests that follow what is in them."""

import pytest

from ppd.files import file_digest, replacing, write_file, write_synced


def test_digests_follow_the_content(tmp_path):
    file = tmp_path / "x"
    file.write_text("one")
    first = file_digest(file)
    assert file_digest(file) == first
    file.write_text("three")
    assert file_digest(file) != first


@pytest.mark.parametrize("write", [write_file, write_synced])
def test_a_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path, write):
    write(tmp_path / "x", b"one")
    write(tmp_path / "x", b"two")
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_bytes() == b"two"


def test_a_writing_that_fails_leaves_the_old_file(tmp_path):
    write_file(tmp_path / "x", b"old")
    with pytest.raises(KeyError), replacing(tmp_path / "x") as temporary:
        temporary.write_bytes(b"half")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_bytes() == b"old"
