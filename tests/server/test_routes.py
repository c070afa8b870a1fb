"""The Taste panel's routes over HTTP: what they answer, and that bad requests are refused and write nothing."""

from __future__ import annotations

import io
import json
import re
import struct
import threading
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from ppd.pairs import read_pairs
from ppd.pictures import Picture

pytestmark = pytest.mark.comfyui
ROOT = Path(__file__).resolve().parents[2]


def call(server, path, body=None, content_type="application/json", method=None):
    """Status and text of an answer."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}/ppd/{path}", data, {"Content-Type": content_type}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def told(server, path, body=None, method=None):
    status, text = call(server, path, body, method=method)
    assert status == 200, text
    return json.loads(text)


def declared(name):
    """The fields that web/types/ppd.d.ts gives one of its interfaces, those of what it extends with them."""
    text = (ROOT / "web" / "types" / "ppd.d.ts").read_text(encoding="utf-8")
    base, body = re.search(rf"interface {name}(?: extends (\w+))? {{(.*?)\n    }}", text, re.DOTALL).groups()
    return set(re.findall(r"^        (\w+)\??:", body, re.MULTILINE)) | (declared(base) if base else set())


def test_the_browsers_types_are_what_is_answered(server, somebody):
    person, _ = somebody
    state = told(server, f"people/{person}/question")
    picked = {"candidate": state["question"]["id"], "verdict": "first", "request": "p"}
    assert declared("Standing") == set(told(server, f"people/{person}/picks", picked))
    assert declared("Standing") - {"changed"} == set(state)
    assert declared("Person") <= set(state["person"])
    assert declared("Pair") - {"pictures"} == set(state["question"])
    assert declared("Statement") <= set(state["statements"][0])
    why = told(server, f"people/{person}/why")
    assert declared("Why") == set(why) and declared("WhyLook") <= set(why["looks"][0])
    assert declared("LibraryPage") == set(told(server, f"people/{person}/library"))
    assert declared("Training") <= set(told(server, "trainings/nobody"))


def test_questions_are_answered_and_taken_back(server, store, somebody):
    person, asked = somebody
    question = told(server, f"people/{person}/question")["question"]
    assert question["id"] in asked and question["verdict"] is None
    assert call(server, f"pictures/{question['first']}") == (200, store.picture(question["first"]).read_bytes())
    for _ in range(2):  # a request that is sent twice counts once
        body = {"candidate": question["id"], "verdict": "second", "request": "one"}
        state = told(server, f"people/{person}/picks", body)
        assert state["question"]["id"] in set(asked) - {question["id"]}
        assert (state["person"]["picks"], state["person"]["open"]) == (1, 2)
    assert [(one.id, one.verdict) for one in store.history(person)] == [(question["id"], "second")]
    state = told(server, f"people/{person}/undo", {"request": "two"})
    assert (state["question"]["id"], state["question"]["verdict"]) == (question["id"], None)
    assert store.history(person) == []


def test_a_pick_is_looked_up_and_revised(server, store, somebody):
    person, asked = somebody
    told(server, f"people/{person}/picks", {"candidate": asked[0], "verdict": "second", "request": "a"})
    page = told(server, f"people/{person}/history")
    assert [(one["id"], one["verdict"]) for one in page["picks"]] == [(asked[0], "second")] and not page["more"]
    assert told(server, f"people/{person}/history?before={page['picks'][0]['pick']}")["picks"] == []
    state = told(server, f"people/{person}/question?candidate={asked[0]}")
    for shown in (state["question"], told(server, f"people/{person}/questions/{asked[0]}")):
        assert (shown["id"], shown["verdict"], shown["prompt"]) == (asked[0], "second", "question 0")
    assert told(server, f"people/{person}/questions/{asked[0]}")["latest"] is True
    assert told(server, f"people/{person}/questions/{asked[1]}")["latest"] is False
    told(server, f"people/{person}/picks", {"candidate": asked[0], "verdict": "first", "request": "b"})
    assert [one.verdict for one in store.history(person)] == ["first"]


def test_a_history_comes_in_pages(server, store, somebody):
    person, _ = somebody
    for number in range(30):
        colours = ((8 * number, 0, 0), (0, 8 * number, 9))
        pictures = (Picture.from_image(Image.new("RGB", (8, 8), colour)) for colour in colours)
        store.pick(store.add_candidate(person, f"more {number}", *pictures), "first", f"{person}-{number}")
    page = told(server, f"people/{person}/history?limit=24")
    assert (len(page["picks"]), page["more"], page["picks"][0]["prompt"]) == (24, True, "more 29")
    page = told(server, f"people/{person}/history?limit=24&before={page['picks'][-1]['pick']}")
    assert ([one["prompt"] for one in page["picks"]], page["more"]) == ([f"more {n}" for n in range(5, -1, -1)], False)


def test_repetitions_are_skipped_together(server, store, somebody):
    person, asked = somebody
    for number in asked:
        store.pick(number, "first", f"{person}-{number}")
    one = store.candidate(asked[0])
    repeated = [
        store.add_candidate(
            person, f"again {n}", *(Picture(store.picture(digest)) for digest in (one.second, one.first))
        )
        for n in range(2)
    ]
    state = told(server, f"people/{person}/question")
    assert (state["question"], state["person"]["open"]) == (None, 2)
    state = told(server, f"people/{person}/skip_left_over", {"request": "r"})
    assert (state["question"], state["person"]["open"], state["person"]["picks"]) == (None, 0, 3)
    assert {store.verdicts(person)[number] for number in repeated} == {"skip"}


def test_what_is_learned_comes_with_the_question(server, store, somebody):
    person, asked = somebody
    state = told(server, f"people/{person}/question")
    assert {one["state"] for one in state["statements"]} == {"not asked yet"}
    assert state["known"] == {"share": 0.0, "more": 8}
    warmth = next(one for one in state["statements"] if one["name"] == "warmth")
    assert (warmth["low"], warmth["high"], warmth["probability_low"]) == ("cool", "warm", warmth["probability_high"])
    for number, candidate in enumerate(asked):  # red, not blue
        state = told(
            server, f"people/{person}/picks", {"candidate": candidate, "verdict": "first", "request": f"{number}"}
        )
    warmer = next(one for one in state["statements"] if one["name"] == "warmth")
    assert warmer["probability_high"] > warmth["probability_high"] and state["known"]["share"] > 0
    assert warmer["least"] < warmer["mean"] < warmer["most"]
    assert state["noise"] == 1.0 and state["question"] is None


def test_people_are_made_renamed_copied_and_erased(server, store, somebody):
    person, asked = somebody
    made = told(server, "people", {"name": "  Haru  Ito ", "request": "r"})
    assert made["name"] == "Haru Ito"
    assert told(server, f"people/{made['id']}/rename", {"name": "Haru", "request": "r"})["name"] == "Haru"
    status, text = call(server, "people", {"name": "名" * 81, "request": "r"})
    assert (status, json.loads(text)["error"]) == (400, "Expected a name of at most 80 letters: shorten it.")
    status, text = call(server, "people", {"name": "HARU", "request": "r"})
    assert (status, json.loads(text)["error"]) == (
        400,
        "There is a person called 'HARU' already: choose another name.",
    )
    store.pick(asked[0], "first", f"{person}-r")
    told(server, f"people/{person}/question")
    copy = told(server, f"people/{person}/duplicate", {"name": "copy", "request": "r"})
    assert (copy["picks"], copy["open"]) == (1, 2)
    assert {one["name"] for one in told(server, "people")["people"]} >= {"Haru", "copy"}
    digest = store.candidate(asked[0]).first
    features = list((server.base / "user" / "__ppd" / "features").glob(f"*/{digest[:2]}/{digest}.npy"))
    assert len(features) == 1
    assert call(server, f"thumbnails/{digest}")[0] == 200
    for one in (made["id"], person, copy["id"]):
        assert features[0].exists()
        told(server, f"people/{one}", method="DELETE")
    assert not features[0].exists()
    assert not [path for path in store.folder.rglob("*") if digest in path.name]
    assert {call(server, f"{kind}/{digest}")[0] for kind in ("pictures", "thumbnails")} == {404}


def test_a_deletion_while_pictures_are_looked_at_leaves_nothing_of_them(server, store, somebody):
    person, _ = somebody
    digests = []
    for number in range(60):
        pictures = [Picture.from_image(Image.new("RGB", (64, 64), (number, side, 77))) for side in (0, 1)]
        digests += [one.digest for one in pictures]
        store.add_candidate(person, f"many {number}", *pictures)
    looking = threading.Thread(target=call, args=(server, f"people/{person}/question"))
    looking.start()
    time.sleep(0.1)
    told(server, f"people/{person}", method="DELETE")
    looking.join()
    features = (server.base / "user" / "__ppd" / "features").glob("*/*/*.npy")
    assert not {path.stem for path in features} & set(digests)


def test_what_cannot_be_used_is_told(server, store, somebody):
    person, asked = somebody
    digest = store.candidate(asked[0]).first
    path = store.picture(digest)
    data = path.read_bytes()
    path.write_bytes(b"damaged")
    answers = [call(server, f"{kind}/{digest}") for kind in ("pictures", "thumbnails")]
    path.write_bytes(data)
    for status, text in answers:
        assert status == 400 and json.loads(text)["error"].startswith("This picture cannot be shown: the picture ")
    store.pick(asked[0], "first", f"{person}-r")
    store.rename(person, "名" * 80)
    assert told(server, f"people/{person}/export", {"request": "r"})["path"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_picture_is_served_as_what_it_is(server, store, somebody, kind):
    """As imported pictures may be; browsers show no TIFF, so that comes as PNG."""
    person, _ = somebody
    buffer = io.BytesIO()
    Image.new("RGB", (32, 16), (200, 30, 30)).save(buffer, kind)
    data = buffer.getvalue()
    store.add_picture(person, kind, Picture(data=data))
    url = f"{server.url}/ppd/pictures/{Picture(data=data).digest}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        served, headers = answer.read(), answer.headers
    assert headers["Content-Type"] == {"TIFF": "image/png"}.get(kind, f"image/{kind.lower()}")
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "private, no-store")
    with Image.open(io.BytesIO(served)) as image:
        assert (image.format, image.size) == ("PNG" if kind == "TIFF" else kind, (32, 16))
    assert kind == "TIFF" or served == data


def test_picks_fade_by_request(server, store, somebody):
    person, _ = somebody
    assert told(server, f"people/{person}/half_life", {"picks": 20, "request": "r"})["person"]["half_life"] == 20
    assert told(server, f"people/{person}/half_life", {"picks": None, "request": "r"})["person"]["half_life"] is None
    for picks in (0, -1, "20", 1e9):
        assert call(server, f"people/{person}/half_life", {"picks": picks, "request": "r"})[0] == 400
    assert store.person(person).half_life is None


def test_thumbnails_are_small(server, store, somebody):
    person, _ = somebody
    large = Picture.from_image(Image.effect_noise((512, 256), 60).convert("RGB"))
    store.add_candidate(person, "large", large, Picture.from_image(Image.new("RGB", (8, 8))))
    status, data = call(server, f"thumbnails/{large.digest}")
    assert status == 200 and Picture(data=data).open().size == (192, 96)


def test_picks_are_exported_and_taken_over(server, store, somebody):
    person, asked = somebody
    for candidate, verdict in zip(asked, ("second", "tie", "first"), strict=True):
        store.pick(candidate, verdict, f"{person}-{candidate}")
    path = told(server, f"people/{person}/export", {"request": "r"})["path"]
    assert path.startswith(str(server.base / "datasets"))
    name = next(name for name in told(server, "sets") if name.endswith(path.rsplit("/", 1)[1]))
    other = told(server, "people", {"name": f"took over {person[:8]}", "request": "r"})["id"]
    for new in (3, 0):
        assert told(server, f"people/{other}/import", {"preference_set": name, "request": "r"})["new"] == new
    contents = [[(p.prompt, p.chosen.digest, p.tie) for p in store.pairs(one)] for one in (person, other)]
    assert contents[0] == contents[1] == [(p.prompt, p.chosen.digest, p.tie) for p in read_pairs(path)]
    store.delete_person(other)


def test_exports_are_folders_of_their_own_and_never_empty(server, store, somebody):
    person, asked = somebody
    status, text = call(server, f"people/{person}/export", {"request": "r"})
    assert status == 400 and "There is nothing to export: " in json.loads(text)["error"]
    before = set((server.base / "datasets").iterdir())
    store.pick(asked[0], "first", f"{person}-1")
    other = store.duplicate(person, "a?b").id
    store.rename(person, "a:b")
    paths = {told(server, f"people/{one}/export", {"request": "r"})["path"] for one in (person, other, person)}
    store.rename(person, "𠮷" * 80)
    paths.add(told(server, f"people/{person}/export", {"request": "r"})["path"])
    assert len(paths) == 4
    assert [len(list(read_pairs(path))) for path in paths] == [1] * 4
    assert {str(path) for path in set((server.base / "datasets").iterdir()) - before} >= paths
    store.delete_person(other)


def test_bad_pairs_of_a_set_can_be_left_out(server, store, somebody):
    person, asked = somebody
    for candidate in asked:
        store.pick(candidate, "first", f"{person}-{candidate}")
    path = Path(told(server, f"people/{person}/export", {"request": "r"})["path"])
    (path / "images" / f"{store.candidate(asked[0]).first}.png").write_bytes(b"broken")
    other = store.add_person(f"took over {person[:8]}").id
    body = {"preference_set": f"datasets: {path.name}", "request": "r"}
    status, text = call(server, f"people/{other}/import", body)
    assert status == 400 and "or skip bad pairs" in json.loads(text)["error"] and not store.person(other).picks
    answer = told(server, f"people/{other}/import", {**body, "skip_bad": True})
    assert answer["new"] == len(asked) - 1 == store.person(other).picks
    (left_out,) = answer["left_out"]
    assert f"pick-{asked[0]}" in left_out
    for picture in (path / "images").iterdir():
        picture.write_bytes(b"broken")
    status, text = call(server, f"people/{other}/import", {**body, "skip_bad": True})
    assert status == 400
    assert json.loads(text)["error"].startswith(f"No pair of {path.name} can be taken over. Pair 'pick-")
    store.delete_person(other)


def test_bad_bodies_are_refused_and_write_nothing(server, store, somebody):
    person, asked = somebody
    good = {"candidate": asked[0], "verdict": "first", "request": "r"}
    bodies = [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"a":' * 800,
        b"x" * 20_000,
        {},
        {**good, "more": 1},
        {**good, "candidate": "1"},
        {**good, "candidate": True},
        {**good, "candidate": 1.5},
        {**good, "candidate": -1},
        {**good, "candidate": 10**30},
        {**good, "verdict": "left"},
        {**good, "request": ""},
        {**good, "request": "r" * 101},
        {**good, "request": None},
    ]
    for body in bodies:
        status, text = call(server, f"people/{person}/picks", body)
        assert status == 400 and json.loads(text)["error"].startswith("Expected"), body
    assert call(server, f"people/{person}/picks", good, "text/plain")[0] == 400
    assert call(server, f"people/{person}/picks", good, "multipart/form-data; boundary=x")[0] == 400
    for name in ("", " ", "n" * 81, 7, None, ["n"]):
        assert call(server, "people", {"name": name, "request": "r"})[0] == 400, name
    assert store.history(person) == []
    assert {one.id for one in store.people()} >= {person}
    assert not [one for one in store.people() if not one.name.strip()]


def test_a_body_without_a_length_is_refused(server, somebody):
    """Chunks might never end."""
    person, _ = somebody
    request = urllib.request.Request(
        f"{server.url}/ppd/people/{person}/undo", iter([b'{"request"', b': "r"}']), {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=30)
    assert error.value.code == 400


def test_foreign_numbers_and_paths_are_not_found(server, store, somebody):
    person, asked = somebody
    other = store.add_person("somebody else").id
    good = {"candidate": asked[0], "verdict": "first", "request": "r"}
    undo = {"request": "r"}
    refused = [
        call(server, f"people/{person}/picks", {**good, "candidate": 10**6}),
        call(server, f"people/{other}/picks", good),
        call(server, f"people/{other}/questions/{asked[0]}"),
        call(server, f"people/{other}/question?candidate={asked[0]}"),
        call(server, f"people/{person}/question?candidate=x"),
        call(server, f"people/{person}/questions/x"),
        call(server, f"people/{person}/questions/{10**30}"),
        call(server, f"people/{person}/questions/-1"),
        call(server, f"people/{person}/history?before=x"),
        call(server, f"people/{person}/history?limit=0"),
        call(server, f"people/{person}/history?before={'0' * 19}{10**25}"),
        call(server, "people/nobody/question"),
        call(server, "people/nobody/undo", undo),
        call(server, "people/nobody/export", undo),
        call(server, "people/nobody/skip_left_over", undo),
        call(server, "people/nobody/duplicate", {"name": "n", "request": "r"}),
        call(server, "people/nobody", method="DELETE"),
        call(server, f"people/{quote('../..', safe='')}/question"),
        *(
            call(server, f"{kind}/{digest}")
            for kind in ("pictures", "thumbnails")
            for digest in ("0" * 64, "..%2Ftaste.sqlite3", quote("../" * 8 + "etc/passwd", safe=""), "%00" * 64)
        ),
    ]
    assert {status for status, _ in refused} == {404}
    assert all(b"Traceback" not in text for _, text in refused)
    assert store.history(person) == store.history(other) == []
    store.delete_person(other)


def png_of(width, height):
    """A small file that claims to be a large picture: one row of zeros, compressed, again and again."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["a bomb", "no picture", "a link out", "a path out", "gone"])
def test_sets_with_bad_pictures_are_refused_and_write_nothing(server, store, somebody, kind, tmp_path):
    person, _ = somebody
    folder = server.base / "input" / f"set with {kind}"
    folder.mkdir()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "good.png")
    Image.new("RGB", (8, 8), (3, 2, 1)).save(folder / "other.png")
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), (99, 98, 97)).save(secret)
    bad = folder / "bad.png"
    if kind == "a bomb":
        bad.write_bytes(png_of(30_000, 30_000))
    elif kind == "no picture":
        bad.write_bytes(b"<svg/>")
    elif kind == "a link out":
        bad.symlink_to(secret)
    named = str(secret) if kind == "a path out" else "bad.png"
    rows = [{"prompt": "p", "chosen": "good.png", "rejected": picture} for picture in ("other.png", named)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    name = f"input: set with {kind}"
    status, text = call(server, f"people/{person}/import", {"preference_set": name, "request": "r"})
    assert status == 400 and b"row-2" in text, text
    assert (store.person(person).picks, store.person(person).open) == (0, 3)


@pytest.mark.parametrize("name", ["input: ../user", "input: /etc", "nothing", "example: ", "input: none"])
def test_sets_are_chosen_by_their_names_only(server, store, somebody, name):
    person, _ = somebody
    status, text = call(server, f"people/{person}/import", {"preference_set": name, "request": "r"})
    assert status == 400 and b"preference set" in text.lower(), text


def test_a_picture_that_became_a_link_is_not_served(server, store, somebody, tmp_path):
    person, asked = somebody
    digest = store.candidate(asked[0]).first
    path = store.picture(digest)
    data = path.read_bytes()
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    path.unlink()
    path.symlink_to(secret)
    assert {call(server, f"{kind}/{digest}")[0] for kind in ("pictures", "thumbnails")} == {404}
    path.unlink()
    path.write_bytes(data)


def test_a_foreign_page_cannot_pick(server, store, somebody):
    """ComfyUI's own protection: a request that a browser marks as from elsewhere."""
    person, asked = somebody
    body = json.dumps({"candidate": asked[0], "verdict": "first", "request": "r"}).encode()
    headers = {"Content-Type": "application/json", "Origin": "http://evil.example", "Host": "127.0.0.1"}
    request = urllib.request.Request(f"{server.url}/ppd/people/{person}/picks", body, headers)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=30)
    assert error.value.code == 403
    assert store.history(person) == []


def test_open_browsers_are_told(server, store, somebody):
    """By the websocket, so that a second window shows what the first has picked, and whom it has made."""
    import asyncio

    import aiohttp

    person, asked = somebody

    async def listen():
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.url}/ws?clientId=other") as ws:
            body = {"candidate": asked[0], "verdict": "first", "request": "r"}
            await asyncio.to_thread(call, server, f"people/{person}/picks", body)
            copy = await asyncio.to_thread(told, server, f"people/{person}/duplicate", {"name": "C", "request": "r"})
            heard = []
            async for message in ws:
                if message.type == aiohttp.WSMsgType.TEXT and json.loads(message.data)["type"] == "ppd.taste":
                    heard.append(json.loads(message.data)["data"])
                if len(heard) == 2:
                    return heard, copy["id"]

    heard, copy = asyncio.run(asyncio.wait_for(listen(), 30))
    assert [(one["person"], one["request"]) for one in heard] == [(person, "r"), (copy, "r")]
    assert [one["revision"] for one in heard] == [store.revision(one) for one in (person, copy)]
    store.delete_person(copy)


def test_the_best_of_a_grid_is_one_answer_with_all_that_changed(server, store, somebody):
    person, asked = somebody
    for number in range(2):
        colours = [(250 - 200 * number, 240, 10), (10, 20 + 200 * number, 30)]
        hill = store.add_candidate(
            person, "a hill", *(Picture.from_image(Image.new("RGB", (64, 64), c)) for c in colours)
        )
    state = told(server, f"people/{person}/question?of=4")
    grid = state["question"]
    assert grid["prompt"] == "a hill" and 3 <= len(grid["pictures"]) <= 4
    body = {"prompt": "a hill", "pictures": grid["pictures"], "best": grid["pictures"][0], "of": 4, "request": "g"}
    for _ in range(2):  # a request that is sent twice counts once
        state = told(server, f"people/{person}/choices", body)
        assert state["person"]["picks"] == 1 and 0 < state["known"]["share"] <= 1
    assert state["question"]["id"] in [*asked, hill - 1, hill]  # a pair: no prompt has enough pictures left
    assert {pair.choice is None for pair in store.pairs(person)} == {False}
    undone = told(server, f"people/{person}/undo", {"of": 4, "request": "u"})
    assert undone["person"]["picks"] == 0 and undone["question"]["pictures"] == grid["pictures"]
    assert [one["verdict"] for one in undone["changed"]] == [None] * (len(grid["pictures"]) - 1)
    state = told(server, f"people/{person}/choices", body | {"best": None, "request": "s"})
    assert state["question"].get("pictures") != grid["pictures"] and state["changed"] == []
    foreign = "0" * 64
    assert call(server, f"people/{person}/choices", body | {"best": foreign, "request": "f"})[0] == 400
    pictures = [*grid["pictures"], foreign]
    assert call(server, f"people/{person}/choices", body | {"pictures": pictures, "request": "h"})[0] == 404
    for bad in ({"pictures": grid["pictures"][:1]}, {"of": 3}, {"best": "../x"}, {"prompt": None}):
        assert call(server, f"people/{person}/choices", body | bad)[0] == 400, bad
    assert store.pairs(person) == []
