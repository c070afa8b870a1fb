"""Is it really mine? A blind test from the workflow to the report, in the real frontend, answered by a simulated person
who knows no more than what is on the page."""

from __future__ import annotations

import io
import json
import struct
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from ppd.blind_questions import Matchup, outcomes
from ppd.pictures import Picture
from ppd.sequential import decided

from .panels import graph_of

pytestmark = pytest.mark.comfyui
ROOT = Path(__file__).resolve().parents[2]
ARMS = ("unmade-plain-7q", "made-own-3k")
LOOKED = 200
"""Milliseconds that a person looks at each question."""
PROMPTS = [
    "a house in the hills",
    "a boat by a lake",
    "flowers on a meadow",
    "a lighthouse by a lake",
    "a tree in the hills",
    "a house by a lake",
    "a tree on a meadow",
    "flowers in the hills",
    "a lighthouse on a meadow",
    "a boat by a lake under the moon",
]


def call(server, path, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{server.url}/ppd/{path}", data, {"Content-Type": "application/json"}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def graph(person):
    """Pocket flow turbo, plain and in the person's taste."""
    sampler = {"positive": ["4", 0], "negative": ["5", 0], "latent_image": ["6", 0], "seed": 5, "steps": 4, "cfg": 1.0}
    sampler |= {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    nodes = {
        "1": ("PPD_PocketCheckpointLoader", {"checkpoint": "pocket flow turbo"}),
        "2": ("PPD_MyTaste", {"model": ["1", 0], "person": person, "strength": 1.0}),
        "3": ("PPD_TestPrompts", {"prompts": "\n".join(PROMPTS), "person": person}),
        "4": ("CLIPTextEncode", {"clip": ["1", 1], "text": ["3", 0]}),
        "5": ("CLIPTextEncode", {"clip": ["1", 1], "text": ""}),
        "6": ("EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 1}),
        "7": ("KSampler", sampler | {"model": ["1", 0]}),
        "8": ("KSampler", sampler | {"model": ["2", 0]}),
        "9": ("VAEDecode", {"samples": ["7", 0], "vae": ["1", 2]}),
        "10": ("VAEDecode", {"samples": ["8", 0], "vae": ["1", 2]}),
        "11": (
            "PPD_BlindTest",
            {"images_a": ["9", 0], "images_b": ["10", 0], "prompts": ["3", 0], "person": person}
            | {"name_a": ARMS[0], "name_b": ARMS[1], "questions": 30},
        ),
    }
    return {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in nodes.items()}


@pytest.fixture(scope="module")
def painter(server):
    """Who likes pale and soft pictures, and their test, made by the real nodes."""
    from ppd.store import TasteStore

    store = TasteStore(server.base / "user" / "__ppd" / "taste")
    person = store.add_person("Blind Painter").id
    store.set_encoder(person, "pocket-flow")
    store.add_pairs(person, ROOT / "weights" / "examples" / "pale and soft")
    entry = server.run(graph(person))
    (made,) = entry["outputs"]["11"]["ppd_blind_test"]
    yield store, person, made["id"], entry
    store.delete_person(person)


@pytest.fixture
def small(store, somebody):
    """A person with a test of four flat pictures."""
    person, _ = somebody
    matchups = [
        Matchup(f"flat {n}", tuple(Picture.from_image(Image.new("RGB", (16, 16), (n, 99 * a, 1))) for a in (0, 1)))
        for n in range(4)
    ]
    return person, store.add_test(person, ARMS, matchups, 10)[0]


def chunks(data):
    """The kinds of a PNG's chunks."""
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found.append(data[at + 4 : at + 8])
        at += 12 + length
    return found


def test_the_node_files_what_it_was_given_and_says_nothing_of_sides(painter):
    store, person, test, entry = painter
    found = store.test(test)
    new = [one for one in found.trials if one.repeats is None]
    assert (found.arms, len(new), len(found.trials)) == (ARMS, 10, 11)
    assert {one.prompt for one in new} == set(PROMPTS) and found.notes["picks"] == 4
    (text,) = entry["outputs"]["11"]["text"]
    assert "at most 11 questions, 1 of them asked twice" in text and "Blind Painter" in text
    assert store.person(person).open == 0 and len(store.answers(person)) == 4


def test_prompts_of_the_taste_are_refused_before_anything_is_painted(server, painter):
    store, person, *_ = painter
    learned = store.answers(person)[0].prompt
    prompt = graph(person)
    prompt["3"]["inputs"]["prompts"] = f"{PROMPTS[0]}\n  {learned.upper()}"
    entry = server.finished(server.submit(prompt))
    (error,) = (data for kind, data in entry["status"]["messages"] if kind == "execution_error")
    assert error["node_type"] == "PPD_TestPrompts"
    assert "was answered when this taste was learned" in error["exception_message"]


def test_over_http_nothing_tells_whose_a_picture_is(server, store, small):
    person, test = small
    trials = {one.id: one for one in store.test(test).trials}
    seen = b""
    for number in range(20):
        status, text = call(server, f"tests/{test}")
        seen += text
        question = json.loads(text)["question"]
        if question is None:
            break
        for side, digest in zip(("left", "right"), trials[question["id"]].pictures, strict=True):
            status, data = call(server, f"tests/{test}/questions/{question['id']}/{side}")
            assert status == 200 and chunks(data) == [b"IHDR", b"IDAT", b"IEND"]
            assert Image.open(io.BytesIO(data)).tobytes() == Picture(store.picture(digest)).open().tobytes()
        body = {"question": question["id"], "verdict": "tie", "seconds": 1.5, "request": f"{test} {number}"}
        status, text = call(server, f"tests/{test}/picks", body)
        assert status == 200
        seen += text
    seen += call(server, f"people/{person}/tests")[1]
    assert number == 5  # four questions, one of them twice
    secrets = [*ARMS, *(digest for one in trials.values() for digest in one.pictures)]
    assert [secret for secret in secrets if secret.encode() in seen] == []
    for name in ("report.html", "report.json", "sheet.png"):
        assert call(server, f"tests/{test}/report/{name}")[0] == 404
    status, text = call(server, f"tests/{test}/finish", {"request": f"{test} end"})
    result = json.loads(text)["result"]
    assert (result["pairs"][0]["ties"], result["pairs"][0]["rate"]) == (4, None)
    assert call(server, f"tests/{test}/report/report.html")[0] == 200
    assert call(server, f"tests/{test}/report/..%2Ftaste.sqlite3")[0] == 404
    body = {"question": list(trials)[0], "verdict": "first", "seconds": 1.0, "request": "late"}
    status, text = call(server, f"tests/{test}/picks", body)
    assert status == 400 and "not blind any more" in json.loads(text)["error"]


def test_bad_requests_are_refused_and_write_nothing(server, store, small):
    _, test = small
    trial = store.test(test).trials[0].id
    good = {"question": trial, "verdict": "first", "seconds": 1.0, "request": "r"}
    for change in ({"verdict": "mine"}, {"seconds": -1}, {"seconds": 1e9}, {"question": "../x"}, {"more": 1}):
        assert call(server, f"tests/{test}/picks", good | change)[0] == 400
    assert call(server, f"tests/{'0' * 32}/picks", good)[0] == 404
    assert call(server, f"tests/{test}/questions/{trial}/middle")[0] == 404
    assert call(server, f"tests/{test}/questions/{'0' * 32}/left")[0] == 404
    status, text = call(server, f"tests/{test}/finish", {"request": "f"})
    assert status == 400 and "Nothing has been answered yet" in json.loads(text)["error"]
    assert store.test(test).answered == 0


@pytest.mark.parametrize("whole", [False, True])
def test_a_deleted_test_or_person_takes_the_report_along(server, store, small, whole):
    person, test = small
    store.answer_trial(test, store.test(test).trials[0].id, "first", 1.0, f"{test} once")
    result = json.loads(call(server, f"tests/{test}/finish", {"request": "f"})[1])["result"]
    folder = server.base / result["folder"]
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json", "sheet.png"]
    assert call(server, f"people/{person}" if whole else f"tests/{test}", method="DELETE")[0] == 200
    assert not folder.exists() and call(server, f"tests/{test}")[0] == 404


class Watched:
    """All that a page has heard and shown."""

    def __init__(self, page):
        self.page, self.answers = page, []
        page.on("response", lambda answer: self.answers.append(answer))
        page.evaluate(
            "() => { window.heard = [];"
            " app.api.socket.addEventListener('message', ({ data }) => window.heard.push(String(data))); }"
        )

    def everything(self):
        told = [self.page.content(), self.page.evaluate("JSON.stringify([window.heard, localStorage, sessionStorage])")]
        for answer in self.answers:
            told.append(f"{answer.url} {answer.all_headers()}")
            if answer.ok and "image" not in answer.headers.get("content-type", ""):
                told.append(answer.text())
        return "\n".join(told)


def ready(page):
    """Waits until what was pressed is done and what came of it is shown: it counts for nothing before."""
    page.locator(".ppd-blind[aria-busy=false]").wait_for()


def brightness(server, source):
    with urllib.request.urlopen(server.url + source, timeout=60) as answer:
        image = Image.open(io.BytesIO(answer.read())).convert("L")
    return sum(image.tobytes()) / (image.width * image.height)


@pytest.mark.browser
def test_a_simulated_person_answers_blind_and_the_report_says_what_they_clicked(server, painter, open_panel):
    """They like the brighter picture, which is all they see of it. On the way: neither, undo, and another window."""
    store, person, test, _ = painter
    page = open_panel(person, is_new=True)
    windows = [Watched(page)]
    sources = "[...document.querySelectorAll('.ppd-blind .picture img')].map(one => one.getAttribute('src'))"

    def begin(verb):
        page.get_by_text("Is it really mine?").click()
        page.locator(".blind-test").get_by_role("button", name=verb).click()
        ready(page)

    begin("Begin")
    graph_before, clicked, presses = graph_of(page), {}, 0
    while page.locator(".ppd-blind .picture").count():
        shown = page.evaluate(sources)
        left, right = (brightness(server, source) for source in shown)
        question = shown[0].split("/questions/")[1].split("/")[0]
        presses += 1
        page.wait_for_timeout(LOOKED)
        if presses == 2:
            page.keyboard.press("ArrowUp")
            clicked[question] = "tie"
        elif left > right:
            page.get_by_label("Left is better (←)").click()
            clicked[question] = "first"
        else:
            page.keyboard.press("ArrowRight")
            clicked[question] = "second"
        ready(page)
        if presses == 3:
            page.keyboard.press("u")
            ready(page)
            del clicked[question]
            assert page.evaluate(sources) == shown
        if presses == 4:
            page = open_panel(person, is_new=True)
            windows.append(Watched(page))
            begin("Continue")
    said = {one.id: one.verdict for one in store.test(test).trials if one.verdict}
    assert said == clicked and graph_of(page) == graph_before
    trials = store.test(test).trials
    secrets = [*ARMS, *(digest for one in trials for digest in one.pictures)]
    told = "\n".join(window.everything() for window in windows)
    assert "/questions/" in told and [secret for secret in secrets if secret in told] == []
    page.get_by_role("button", name="See the result").click()
    page.locator(".ppd-blind .shares").wait_for()
    arms_of = {one.id: one for one in trials}
    chosen = [arms_of[one].winner() for one in clicked if arms_of[one].repeats is None]
    own, plain = chosen.count(1), chosen.count(0)
    assert own + plain >= 7 and f"{max(own, plain)} of {own + plain} times" in page.locator(".ppd-blind").inner_text()
    link = page.locator(".ppd-blind a", has_text="Figures").get_attribute("href")
    with urllib.request.urlopen(server.url + link, timeout=60) as answer:
        figures = json.loads(answer.read())
    (pair,) = figures["pairs"]
    assert (pair["wins"], pair["losses"], pair["ties"]) == (plain, own, chosen.count(None))
    assert pair["rate"] == plain / (plain + own) and pair["arms"] == list(ARMS)
    assert pair["decided"] == decided(outcomes(trials, (0, 1)))
    assert figures["answers"] == len(clicked) and LOOKED / 1000 <= figures["seconds_per_pick"] < 60
    (again,) = (one for one in trials if one.repeats is not None)
    preferred = int(trials[again.repeats].verdict != "tie")  # by chance the one that comes again
    told_again = [figures["consistency"][count] for count in ("same", "of", "ties")]
    assert told_again == [preferred, preferred, 1 - preferred]
    assert {one["look"] for one in figures["looks"]}  # the taste encoder's words for what was preferred
    page.keyboard.press("Escape")
    page.locator(".blind-test").get_by_role("button", name="Result").wait_for()
    assert store.person(person).picks == 4
