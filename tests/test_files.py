"""Files written in one step, and digests that follow what is in them."""

import os

import pytest

from ppd import files
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


def test_a_file_that_someone_reads_is_replaced_a_little_later(tmp_path, monkeypatch):
    """As on Windows."""
    tried, really = [], os.replace

    def held(new, old):
        tried.append(old)
        if len(tried) < 4:
            raise PermissionError("in use")
        really(new, old)

    monkeypatch.setattr(os, "replace", held)
    write_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new" and len(tried) == 4
    monkeypatch.setattr(files, "SECONDS_BETWEEN_TRIES", 0.0)
    tried.clear()
    monkeypatch.setattr(files, "TRIES", 2)
    with pytest.raises(PermissionError):
        write_file(tmp_path / "x", b"newer")
    assert (tmp_path / "x").read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 1
