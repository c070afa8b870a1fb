"""Finished pictures of a folder: newest first, quickly, and what each was asked to be."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from ppd.finished import Finished, finished_picture, finished_pictures, prompt_of

PAGE = 60


def paint(path: Path, prompt: str = "", parameters: str = "", modified: int = 0) -> Path:
    graph = {
        "1": {"class_type": "CLIPTextEncode", "inputs": {"text": prompt}},
        "2": {"class_type": "KSampler", "inputs": {"positive": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "a"}},
    }
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", json.dumps(graph))
    if parameters:
        info.add_text("parameters", parameters)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (modified % 256, 0, 0)).save(path, pnginfo=info)
    os.utime(path, ns=(modified, modified))
    return path


def test_the_newest_first_and_nothing_hidden_linked_or_no_picture(tmp_path):
    folder = tmp_path / "output"
    for modified, name in enumerate(["b.png", "deep/er/c.PNG", "a.png", ".hidden.png", ".hidden/d.png", "e.txt"], 1):
        paint(folder / "x.png", modified=modified)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "x.png").rename(folder / name)
    paint(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path, target_is_directory=True)
    (folder / "no\nname.png").write_bytes(b"")
    found = finished_pictures(folder)
    assert [(one.modified, one.name) for one in found] == [(3, "a.png"), (2, "deep/er/c.PNG"), (1, "b.png")]
    assert (
        found[0]
        == Finished(3, "a.png", (folder / "a.png").stat().st_size)
        == finished_picture(folder / "a.png", "a.png")
    )
    assert [one.name for one in finished_pictures(folder, "deep")] == ["deep/er/c.PNG"]
    assert finished_pictures(tmp_path / "gone") == []
    with pytest.raises(FileNotFoundError):
        finished_picture(folder / "gone.png", "gone.png")


def test_a_prompt_is_read_once_per_change(tmp_path, monkeypatch):
    path = paint(tmp_path / "a_00001_.png", "a fox", modified=1)
    assert prompt_of(path) == "a fox"
    with monkeypatch.context() as patched:
        patched.setattr("ppd.finished.texts_of", lambda path: pytest.fail("it was read again"))
        assert prompt_of(path) == "a fox"
    paint(path, "a hare", modified=2)
    assert prompt_of(path) == "a hare"
    paint(path, "a {fox|hare}", "a hare\nNegative prompt: x\nSteps: 2", modified=3)
    assert prompt_of(path) == "a hare"
    Image.new("RGB", (8, 8)).save(path)
    assert prompt_of(path) == ""


def test_the_first_page_of_ten_thousand_comes_quickly_and_undecoded(tmp_path, monkeypatch):
    data = paint(tmp_path / "a_00001_.png", "a fox").read_bytes()
    for number in range(10_000):
        (tmp_path / f"b_{number:05}_.png").write_bytes(data)
    monkeypatch.setattr("ppd.decoding.decode", lambda *arguments: pytest.fail("a picture was decoded"))
    monkeypatch.setattr("PIL.Image.Image.load", lambda *arguments: pytest.fail("a picture was decoded"))
    start = time.process_time()
    page = finished_pictures(tmp_path)[:PAGE]
    prompts = {prompt_of(tmp_path / one.name) for one in page}
    assert time.process_time() - start < 0.5
    assert (len(page), prompts) == (PAGE, {"a fox"})
