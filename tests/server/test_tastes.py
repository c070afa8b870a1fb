"""Taste files, codes, blends and earlier days over HTTP."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import replace
from uuid import uuid4

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from ppd.encoders.encoder import TasteEncoder
from ppd.pictures import Picture
from ppd.pocket.studio import WEIGHTS
from ppd.taste_code import encode
from ppd.user_embedding import UserEmbedding

pytestmark = pytest.mark.comfyui


@pytest.fixture
def people(store):
    """Two people with three picks each, of opposite tastes, and nobody else's files."""
    found = []
    for sign, name in ((1, f"Ann {uuid4().hex[:8]}"), (-1, f"Bea {uuid4().hex[:8]}")):
        person = store.add_person(name).id
        for number in range(3):
            pictures = [
                Picture.from_image(Image.new("RGB", (200, 100), colour))
                for colour in ((250, 80 * number, 0), (0, 80 * number, 250))[::sign]
            ]
            store.pick(store.add_candidate(person, f"a secret {number}", *pictures), "first", f"{person} {number}")
        found.append(store.person(person))
    yield found
    for person in found:
        store.delete_person(person.id)


@pytest.fixture
def folder(server):
    """models/user_embeddings, without what a test leaves there."""
    folder = server.base / "models" / "user_embeddings"
    folder.mkdir(exist_ok=True)
    before = set(folder.iterdir())
    yield folder
    for path in set(folder.iterdir()) - before:
        path.unlink()


def call(server, method, path, data=None, expected=200):
    """Status, and the body as JSON or as bytes."""
    headers = {"Content-Type": "application/json" if isinstance(data, dict) else "application/octet-stream"}
    if isinstance(data, dict):
        data = json.dumps({"request": uuid4().hex, **data}).encode()
    request = urllib.request.Request(f"{server.url}/ppd/{path}", data, headers, method=method)
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        answer = error
    body = answer.read()
    assert answer.status == expected, body
    is_json = answer.headers["Content-Type"].startswith("application/json")
    return json.loads(body) if is_json else (body, answer.headers)


def test_a_file_tells_no_name_no_prompt_and_no_picture_unless_asked(server, people, folder, tmp_path):
    ann, path = people[0], tmp_path / "a.safetensors"
    data, headers = call(server, "GET", f"people/{ann.id}/taste")
    path.write_bytes(data)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {"u"}
        assert set(file.metadata()) == {"format", "version", "encoder", "encoder_hash", "pairs", "created"}
    for secret in (ann.name, ann.id, "secret"):
        assert secret.encode() not in data and secret not in headers["Content-Disposition"]
    query = urllib.parse.urlencode({"name": 1, "thumbnail": 1, "note": "for the lake"})
    data, headers = call(server, "GET", f"people/{ann.id}/taste?{query}")
    path.write_bytes(data)
    with safe_open(path, "pt") as file:
        told = file.metadata()
    assert (told["name"], told["note"]) == (ann.name, "for the lake") and told["thumbnail"] and b"secret" not in data
    assert urllib.parse.quote(ann.name) in headers["Content-Disposition"]
    assert UserEmbedding.load(path).pairs == 3


def test_a_file_goes_out_and_in_and_is_a_choice(server, people, folder):
    ann = people[0]
    data, _ = call(server, "GET", f"people/{ann.id}/taste?name=1&thumbnail=1&note=evenings")
    for expected in ("Ann.safetensors", "Ann (2).safetensors"):  # never over another
        assert call(server, "POST", "tastes?file=Ann.safetensors", data) == {"file": expected}
    shown = [one for one in call(server, "GET", "tastes") if one["name"] == ann.name]
    assert {one["choice"] for one in shown} == {"taste: Ann.safetensors", "taste: Ann (2).safetensors"}
    assert {(one["picks"], one["note"], one["encoder_here"], one["problem"]) for one in shown} == {
        (3, "evenings", "pocket-flow", None)
    }
    options = server.get("/object_info/PPD_MyTaste")["PPD_MyTaste"]["input"]["optional"]["person"][1]["options"]
    assert "taste: Ann (2).safetensors" in options
    call(server, "DELETE", "tastes/" + urllib.parse.quote("Ann (2).safetensors"))
    assert not (folder / "Ann (2).safetensors").exists() and (folder / "Ann.safetensors").exists()


@pytest.mark.parametrize("says_its_length", [True, False])
def test_a_file_may_come_in_packets(server, people, folder, says_its_length):
    data, _ = call(server, "GET", f"people/{people[0].id}/taste?thumbnail=1")

    def packets():
        for start in range(0, len(data), len(data) // 3):
            yield data[start : start + len(data) // 3]
            time.sleep(0.2)

    connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc, timeout=60)
    length = {"Content-Length": str(len(data))} if says_its_length else {}
    connection.request("POST", "/ppd/tastes?file=slow", packets(), length, encode_chunked=not says_its_length)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (200, {"file": "slow.safetensors"})
    connection.close()
    sent = folder / "sent.safetensors"
    sent.write_bytes(data)
    assert torch.equal(UserEmbedding.load(folder / "slow.safetensors").u, UserEmbedding.load(sent).u)


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../b", "..", "evil\x00\n", ""])
def test_a_file_stays_in_its_folder_whatever_it_is_called(server, people, folder, name):
    data, _ = call(server, "GET", f"people/{people[0].id}/taste")
    made = call(server, "POST", "tastes?" + urllib.parse.urlencode({"file": f"{name}.safetensors"}), data)["file"]
    assert (folder / made).is_file() and "/" not in made


def test_what_is_no_taste_is_refused_and_leaves_nothing(server, folder):
    before = sorted(folder.iterdir())
    told = call(server, "POST", "tastes?file=x", b"no tensors", expected=400)["error"]
    assert "is not a readable safetensors file" in told and "expected a user embedding" in told
    assert "at most 4 MB" in call(server, "POST", "tastes?file=x", b"0" * (5 << 20), expected=400)["error"]
    for path in ("tastes/gone.safetensors", "tastes/..%2F..%2Fsecret.safetensors"):
        assert "There is no taste file" in call(server, "DELETE", path, expected=400)["error"]
    assert sorted(folder.iterdir()) == before


def test_a_taste_that_its_encoder_never_makes_is_refused_and_listed_so(server, people, folder, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(call(server, "GET", f"people/{people[0].id}/taste")[0])
    replace(UserEmbedding.load(path), u=torch.ones(1, 5)).save(path)
    told = call(server, "POST", "tastes?file=x", path.read_bytes(), expected=400)["error"]
    assert "makes tastes of shape [1, 32]" in told and "got [1, 5]" in told
    code = encode(UserEmbedding.load(path))
    assert call(server, "POST", "tastes/code", {"code": code}, expected=400)["error"] == told
    (folder / "narrow.safetensors").write_bytes(path.read_bytes())
    (shown,) = (one for one in call(server, "GET", "tastes") if one["file"] == "narrow.safetensors")
    assert shown["problem"] == told


def test_a_damaged_file_is_listed_with_what_is_wrong(server, folder):
    (folder / "broken.safetensors").write_bytes(b"x")
    (shown,) = (one for one in call(server, "GET", "tastes") if one["file"] == "broken.safetensors")
    assert "not a readable safetensors file" in shown["problem"] and shown["encoder_here"] is None


def test_a_code_goes_out_and_in(server, people, folder):
    code = call(server, "GET", f"people/{people[0].id}/code")["code"]
    made = call(server, "POST", "tastes/code", {"code": f" {code}\n", "name": "from Ann"})
    assert made == {"file": "from Ann.safetensors"}
    data, _ = call(server, "GET", f"people/{people[0].id}/taste")
    (folder / "exact.safetensors").write_bytes(data)
    exact, found = (UserEmbedding.load(folder / name) for name in ("exact.safetensors", made["file"]))
    torch.testing.assert_close(found.u, exact.u, rtol=0, atol=float(exact.u.abs().max()) / 200)
    assert "damaged or cut" in call(server, "POST", "tastes/code", {"code": code[:-3]}, expected=400)["error"]


def test_a_code_with_noise_says_so_and_each_is_another(server, people):
    path = f"people/{people[0].id}/code?epsilon="
    first, second = (call(server, "GET", f"{path}8") for _ in range(2))
    assert first["noise"] == second["noise"] == {"epsilon": 8.0, "delta": 1e-5}
    assert first["code"].startswith("ppd2:") and first["code"] != second["code"]
    assert call(server, "GET", f"{path}0")["noise"] is None
    told = call(server, "GET", f"{path}lots", expected=400)["error"]
    assert told == "Expected a number as epsilon, got 'lots': 8 is usual, 0 for no noise."
    assert "Expected an epsilon of 0.01 to 100, got 1000" in call(server, "GET", f"{path}1000", expected=400)["error"]


def test_who_is_bound_to_a_guide_shares_what_it_lets_be(server, people, folder):
    """With noise too: it comes first, and obeying costs no privacy."""
    ann, guide = people[0], server.base / "input" / "plain.brand.json"
    rules = [{"level": "never", "look": word} for word in ("dark", "bright")]
    guide.write_text(json.dumps({"format": "ppd-brand-guide", "version": "1", "name": "Plain", "rules": rules}))
    state = call(server, "POST", f"people/{ann.id}/guide", {"guide": "input: plain.brand.json"})
    assert state["person"]["guide"] == "input: plain.brand.json" in state["guides"]
    shown = state["guide"]
    assert (shown["name"], shown["changed"], shown["binds"]) == ("Plain", False, True) and len(shown["held"]) >= 1
    looks = TasteEncoder.load(WEIGHTS / "taste_encoders" / "pocket-flow").looks
    at = looks.low.index("dark")
    data, _ = call(server, "GET", f"people/{ann.id}/taste")
    (folder / "bound.safetensors").write_bytes(data)
    code = call(server, "GET", f"people/{ann.id}/code?epsilon=8")["code"]
    made = call(server, "POST", "tastes/code", {"code": code, "name": "hidden"})["file"]
    for name, rounding in (("bound.safetensors", 1e-5), (made, 0.02)):
        u = UserEmbedding.load(folder / name).u[0]
        for face in (looks.readings[at], looks.steps[at]):
            assert abs(float(face @ u)) <= rounding * float(face.norm() * u.norm())

    guide.unlink()
    gone = "There is no brand guide 'input: plain.brand.json': put its file back, or choose another guide, or none,"
    state = call(server, "GET", f"people/{ann.id}/question")
    assert state["guide"]["problem"].startswith(gone) and state["problem"] is None and state["person"]["picks"] == 3
    assert call(server, "GET", f"people/{ann.id}/taste", expected=400)["error"].startswith(gone)
    assert call(server, "POST", f"people/{ann.id}/guide", {"guide": "input: plain.brand.json"}, expected=400)
    assert call(server, "POST", f"people/{ann.id}/guide", {"guide": 3}, expected=400)
    state = call(server, "POST", f"people/{ann.id}/guide", {"guide": None})
    assert (state["guide"], state["person"]["guide"]) == (None, None)
    call(server, "GET", f"people/{ann.id}/taste")


def test_a_blend_lies_between_a_person_and_a_file(server, people, folder):
    ann, bea = people
    data, _ = call(server, "GET", f"people/{ann.id}/taste")
    file = call(server, "POST", "tastes?file=ann", data)["file"]
    body = {"first": f"taste: {file}", "second": bea.id, "weight": 0.25, "name": "both"}
    made = call(server, "POST", "tastes/blend", body)
    data, _ = call(server, "GET", f"people/{bea.id}/taste")
    (folder / "bea.safetensors").write_bytes(data)
    a, b, mixed = (UserEmbedding.load(folder / name) for name in (file, "bea.safetensors", made["file"]))
    torch.testing.assert_close(mixed.u, 0.75 * a.u + 0.25 * b.u)
    assert mixed.pairs == 6 and not torch.allclose(a.u, b.u)


def test_nobodys_taste_is_not_shared(server, store):
    person = store.add_person(f"new {uuid4().hex[:8]}")
    told = call(server, "GET", f"people/{person.id}/taste", expected=400)["error"]
    assert told == f"{person.name} has not picked yet, so there is no taste to share: answer some questions first."
    store.delete_person(person.id)
    call(server, "GET", f"people/{person.id}/code", expected=404)


def test_back_to_an_earlier_day_keeps_what_was(server, store, people):
    ann = people[0]
    picks = sorted(one.pick for one in store.history(ann.id))
    with store.database.writing() as database:
        database.execute("UPDATE picks SET created = '2026-01-05T12:00:00+00:00' WHERE id <= ?", (picks[1],))
    newest, oldest = call(server, "GET", f"people/{ann.id}/days")
    assert (oldest, newest["picks"]) == ({"date": "2026-01-05", "picks": 2}, 3)
    for day in ("2026-01-06", "5"):
        body = {"day": day, "copy_name": f"{ann.name} copy"}
        call(server, "POST", f"people/{ann.id}/go_back", body, expected=404 if len(day) > 1 else 400)
    copy = call(server, "POST", f"people/{ann.id}/go_back", {"day": oldest["date"], "copy_name": f"{ann.name} copy"})
    assert (store.person(ann.id).picks, store.person(copy["id"]).picks) == (2, 3)
    assert len(call(server, "GET", f"people/{ann.id}/days")) == 1
    store.delete_person(copy["id"])
