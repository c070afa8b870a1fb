"""Rating finished pictures over HTTP: what lies in ComfyUI's folders, what its nodes wrote there, and what is kept."""

from __future__ import annotations

import io
import json
import os
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlencode

import pytest
from PIL import Image, PngImagePlugin

from ppd.store import MissingError

pytestmark = pytest.mark.comfyui


def call(server, path, body=None):
    """Status, content type and body of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}/ppd/{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.headers.get("Cache-Control") != "public"
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, "", error.read()


def told(server, path, body=None):
    status, _, text = call(server, path, body)
    assert status == 200, text
    return json.loads(text)


def page(server, person, **query):
    return told(server, f"people/{person}/library?{urlencode(query)}")


@pytest.fixture
def person(store, somebody):
    return somebody[0]


@pytest.fixture
def paint(server, request):
    """Saves pictures as A1111 does, in a folder of output that is the test's own; returns the folder's name."""
    folder = f"library {request.node.name[:40]}"
    (server.base / "output" / folder).mkdir()

    def save(name, prompt="", colour=(200, 80, 20), age=0):
        info = PngImagePlugin.PngInfo()
        if prompt:
            info.add_text("parameters", f"{prompt}\nNegative prompt: x\nSteps: 4")
        path = server.base / "output" / folder / name
        Image.new("RGB", (640, 480), colour).save(path, pnginfo=info)
        at = time.time_ns() - age * 10**9
        os.utime(path, ns=(at, at))
        return path

    save.folder = folder  # type: ignore[attr-defined]
    return save


def rate(server, person, folder, name, rating, request=None):
    body = {
        "folder": "output",
        "picture": f"{folder}/{name}",
        "rating": rating,
        "request": request or f"{name} {rating}",
    }
    return told(server, f"people/{person}/library/ratings", body)


def test_what_comfyui_saves_tells_its_prompt(server, person, graphs):
    """PNG of SaveImage, and the animations' PNG and WebP, whose metadata lies elsewhere."""
    prompt = graphs.set_inputs(server.prompt("first personal picture"), "KSampler", steps=2)
    prompt = graphs.set_inputs(prompt, "PersonalizedDenoiser", steps=2)
    base, personal = graphs.nodes_of(prompt, "SaveImage")
    prompt[base]["inputs"]["filename_prefix"] = "library real/base"
    prompt[personal]["inputs"]["filename_prefix"] = "library real/personal"
    images = prompt[base]["inputs"]["images"]
    common = {"images": images, "fps": 6.0}
    webp = {"filename_prefix": "library real/webp", "lossless": False, "quality": 80, "method": "default"}
    prompt["webp"] = {"class_type": "SaveAnimatedWEBP", "inputs": {**common, **webp}}
    prompt["png"] = {
        "class_type": "SaveAnimatedPNG",
        "inputs": {**common, "filename_prefix": "library real/png", "compress_level": 1},
    }
    server.run(prompt)
    found = page(server, person, folder="output: library real")["pictures"]
    assert {one["name"].rpartition("/")[2] for one in found} == {
        "base_00001_.png",
        "personal_00001_.png",
        "webp_00001_.webp",
        "png_00001_.png",
    }
    assert {one["prompt"] for one in found} == {"a lighthouse by a lake with a mountain behind"}


def test_pages_show_the_newest_first_and_lose_nothing_to_what_comes_meanwhile(server, person, paint):
    for number in range(5):
        paint(f"{number}.png", f"prompt {number}", age=number + 1)
    folder = f"output: {paint.folder}"
    assert folder in told(server, "library/folders")
    first = page(server, person, folder=folder, limit=3)
    paint("new.png")
    second = page(server, person, folder=folder, limit=3, before=first["next"])
    names = [one["name"] for one in first["pictures"] + second["pictures"]]
    assert names == [f"{paint.folder}/{number}.png" for number in range(5)] and second["next"] is None
    one = first["pictures"][1]
    assert (one["folder"], one["prompt"], one["rating"]) == ("output", "prompt 1", None)
    assert one["size"] == (server.base / "output" / one["name"]).stat().st_size
    status, kind, data = call(server, one["thumbnail"].removeprefix("/ppd/"))
    assert (status, kind, Image.open(io.BytesIO(data)).size) == (200, "image/jpeg", (320, 240))
    status, kind, data = call(server, one["picture"].removeprefix("/ppd/"))
    assert (status, kind, data) == (200, "image/png", (server.base / "output" / one["name"]).read_bytes())


def test_a_rating_keeps_a_copy_is_taken_back_and_makes_pairs(server, store, person, paint):
    kept, other = paint("a.png", "a fox", (250, 0, 0), age=1), paint("b.png", "a fox", (0, 0, 250), age=2)
    loved = paint("c.png", "", (0, 250, 0), age=3)
    folder = f"output: {paint.folder}"
    assert rate(server, person, paint.folder, "c.png", "keep") == {"kept": 1, "not": 0, "choices": 0, "moodboard": 1}
    assert rate(server, person, paint.folder, "a.png", "keep") == {"kept": 2, "not": 0, "choices": 0, "moodboard": 2}
    for _ in range(2):  # a request that is sent twice counts once
        gave = rate(server, person, paint.folder, "b.png", "not")
        assert gave == {"kept": 2, "not": 1, "choices": 1, "moodboard": 1}
    assert [one["rating"] for one in page(server, person, folder=folder)["pictures"]] == ["keep", "not", "keep"]
    paint("d.png", "a fox", (9, 9, 9), age=4)
    unrated = page(server, person, folder=folder, unrated=1)
    assert [one["name"] for one in unrated["pictures"]] == [f"{paint.folder}/d.png"]
    (pair,) = store.pairs(person)
    assert (pair.prompt, pair.chosen.read(), pair.rejected.read()) == ("a fox", kept.read_bytes(), other.read_bytes())
    assert [store.picture(one.digest).read_bytes() for one in store.moodboard(person)] == [loved.read_bytes()]
    kept.unlink()  # what is kept is a copy
    assert len(store.pairs(person)) == 1
    assert rate(server, person, paint.folder, "b.png", None) == {"kept": 2, "not": 0, "choices": 0, "moodboard": 2}
    assert store.pairs(person) == []


def test_a_moved_or_copied_picture_is_known_by_its_content(server, person, paint):
    path = paint("a.png", "a fox")
    rate(server, person, paint.folder, "a.png", "keep")
    path.rename(path.with_name("moved.png"))
    path.with_name("copy.png").write_bytes(path.with_name("moved.png").read_bytes())
    paint("a.png", "another fox", (1, 2, 3))  # the old name, another picture
    found = page(server, person, folder=f"output: {paint.folder}")["pictures"]
    assert {one["name"].rpartition("/")[2]: one["rating"] for one in found} == {
        "moved.png": "keep",
        "copy.png": "keep",
        "a.png": None,
    }


def test_the_rest_of_a_prompt_is_rated_together(server, store, person, paint):
    for number in range(4):
        paint(f"{number}.png", "a fox" if number else "a hare", (50 * number, 0, 0), age=number)
    paint("none.png")
    rate(server, person, paint.folder, "1.png", "keep")
    within = f"output: {paint.folder}"
    query = {"folder": "output", "picture": f"{paint.folder}/1.png", "within": within}
    assert told(server, f"people/{person}/library/rest?{urlencode(query)}") == {"count": 2}
    for _ in range(2):
        answer = told(server, f"people/{person}/library/rest", {**query, "rating": "not", "request": "rest"})
        assert answer["counts"] == {"kept": 1, "not": 2, "choices": 1, "moodboard": 0}
    ratings = {one["name"].rpartition("/")[2]: one["rating"] for one in page(server, person, folder=within)["pictures"]}
    assert ratings == {"0.png": None, "1.png": "keep", "2.png": "not", "3.png": "not", "none.png": None}
    query["picture"] = f"{paint.folder}/none.png"  # its prompt is not known, so nothing is of the same
    assert told(server, f"people/{person}/library/rest?{urlencode(query)}") == {"count": 0}


def test_a_press_does_not_wait_for_four_who_rate_all_the_rest(server, store, person, paint):
    for number in range(150):
        paint(f"{number}.png", "a fox" if number else "a hare", (number % 256, number // 256, 0))
    within = f"output: {paint.folder}"
    body = {"folder": "output", "picture": f"{paint.folder}/1.png", "within": within, "rating": "not"}
    with ThreadPoolExecutor(4) as threads:
        rests = [
            threads.submit(told, server, f"people/{person}/library/rest", body | {"request": f"rest {number}"})
            for number in range(4)
        ]
        time.sleep(0.3)
        waited = []
        while not rests[0].done() or len(waited) < 3:
            start = time.monotonic()
            told(server, "people")
            waited.append(time.monotonic() - start)
        assert max(waited) < 1.0, waited
    assert sorted(len(one.result()["pictures"]) for one in rests) == [0, 0, 0, 148]
    assert store.person(person).ratings == 148


def test_named_pictures_of_a_run_are_told(server, person, paint):
    paint("a.png", "a fox")
    (server.base / "temp").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(server.base / "temp" / "preview.png")
    query = urlencode([("folder", "output"), ("picture", f"{paint.folder}/a.png")])
    (one,) = told(server, f"people/{person}/library/pictures?{query}")
    assert (one["name"], one["prompt"]) == (f"{paint.folder}/a.png", "a fox")
    (one,) = told(server, f"people/{person}/library/pictures?folder=temp&picture=preview.png")
    assert (one["folder"], one["prompt"]) == ("temp", "")


@pytest.mark.parametrize(
    "name", ["../user/__ppd/taste/taste.sqlite3", "../input/secret.png", "/etc/passwd", "link.png", "a\0.png", ".", ""]
)
def test_nothing_outside_of_comfyuis_folders(server, person, name, tmp_path):
    Image.new("RGB", (8, 8)).save(server.base / "input" / "secret.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    link = server.base / "output" / "link.png"
    if not link.is_symlink():
        link.symlink_to(tmp_path / "secret.png")
    picture = quote(name, safe="")
    for kind in ("picture", "thumbnail"):
        status, _, text = call(server, f"library/{kind}?folder=output&picture={picture}")
        assert status == 404 and b"Traceback" not in text
        assert call(server, f"library/{kind}?folder=..&picture={picture}")[0] == 404
    body = {"folder": "output", "picture": name or "x.png", "rating": "keep", "request": "r"}
    assert call(server, f"people/{person}/library/ratings", body)[0] == 404
    assert call(server, f"people/{person}/library?folder={quote(f'output: {name}')}")[0] == 404
    assert call(server, f"people/{person}/library?folder=user")[0] == 404


def test_bad_requests_are_refused_in_a_sentence_and_write_nothing(server, store, person, paint):
    paint("a.png")
    (server.base / "output" / paint.folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    good = {"folder": "output", "picture": f"{paint.folder}/a.png", "rating": "keep", "request": "r"}
    folder = quote(f"output: {paint.folder}")
    ratings = f"people/{person}/library/ratings"
    for path, body in (
        (ratings, {**good, "rating": "love"}),
        (ratings, {**good, "folder": "user"}),
        (ratings, {**good, "picture": f"{paint.folder}/broken.png"}),
        (f"people/{person}/library/rest", {**good, "within": f"output: {paint.folder}", "rating": None}),
        (f"people/{person}/library?folder={folder}&limit=x", None),
        (f"people/{person}/library?folder={folder}&before=x/a.png", None),
        (f"library/thumbnail?folder=output&picture={quote(paint.folder)}/broken.png", None),
    ):
        status, _, text = call(server, path, body)
        assert status == 400 and json.loads(text)["error"].endswith("."), (path, text)
    assert call(server, "people/nobody/library")[0] == 404
    assert call(server, "people/nobody/library/ratings", good)[0] == 404
    assert store.rated(person) == []


def test_with_a_person_goes_what_was_kept_of_their_library(server, store, person, paint):
    paint("a.png", "a fox", (7, 77, 177))
    rate(server, person, paint.folder, "a.png", "keep")
    digest = store.rated(person)[0].digest
    store.delete_person(person)
    with pytest.raises(MissingError):
        store.picture(digest)
