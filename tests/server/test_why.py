"""Why something is said, over HTTP and in the tab of the real frontend."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
from PIL import Image

from ppd.pictures import Picture

from .panels import settle

pytestmark = pytest.mark.comfyui
PICKS = 24


def file(store, person, number, chosen, rejected):
    """A pick of one colour over another."""
    pictures = [Picture.from_image(Image.new("RGB", (64, 64), colour)) for colour in (chosen, rejected)]
    store.pick(store.add_candidate(person, f"question {number}", *pictures), "first", f"{person} why {number}")


@pytest.fixture
def fickle(store, request):
    """Somebody who picks red over blue PICKS / 2 times, and then blue over red."""
    person = store.add_person(request.node.name[:60]).id
    for number in range(PICKS):
        red, blue = (250 - number, 3 * number, 20), (20, 3 * number, 250 - number)
        file(store, person, number, *((red, blue) if number < PICKS / 2 else (blue, red)))
    yield store.person(person)
    store.delete_person(person)


def get(server, path, expected=200):
    try:
        return server.get(f"/ppd/people/{path}")
    except urllib.error.HTTPError as error:
        assert error.code == expected
        return json.load(error)


def test_the_causes_are_the_persons_own_pictures_and_can_be_answered_otherwise(server, store, fickle):
    found = get(server, f"{fickle.id}/why")
    assert found["answers"] == PICKS and found["half_life"] is None
    assert found["points"][0] == {"answers": 0, "day": ""} and found["points"][-1]["answers"] == PICKS
    assert found["points"][-1]["day"] == store.days(fickle.id)[-1][0]
    own = store.digests(fickle.id)
    for one in found["looks"]:
        assert len(one["course"]) == len(found["points"])
        assert one["share"][0] <= one["share"][1] <= one["share"][2]
        for cause in one["causes"]:
            assert {cause["chosen"], cause["rejected"]} <= set(own)
    drift = found["drift"][0]
    assert abs(drift["since"] - PICKS / 2) <= 2 and drift["before"] * drift["now"] < 0
    pair = found["looks"][0]["causes"][0]["pair"]
    other = get(server, f"{fickle.id}/what_if/{pair}")
    assert 0 < other["decided"] < 1
    for one in other["said"]:
        assert one["before"] != one["after"] and {"name", "low", "high"} <= one.keys()


def test_what_is_not_there_is_told(server, store, fickle):
    assert get(server, f"{'0' * 32}/why", 404)["error"].startswith("There is no person")
    gone = get(server, f"{fickle.id}/what_if/pick-0", 404)["error"]
    assert gone == "This answer is not among the person's any more: open the page anew."
    nobody = store.add_person("why nobody").id
    assert get(server, f"{nobody}/why")["answers"] == 0
    store.delete_person(nobody)


@pytest.mark.browser
def test_the_tab_shows_why_what_if_and_fades(server, store, fickle, open_panel):
    page = open_panel(fickle.id)
    page.get_by_text("Why", exact=True).click()
    part = page.locator(".ppd-taste .why")
    part.locator(".drift").first.wait_for()
    drift = part.locator(".drift").first
    assert "Your taste has changed (" in drift.inner_text()
    page.wait_for_function(
        "[...document.querySelectorAll('.why .cause:first-child img')].some(image => image.naturalWidth > 0)"
    )
    looks = get(server, f"{fickle.id}/why")["looks"]
    assert part.locator("section h4").count() == len(looks)
    assert part.locator("svg polyline").first.get_attribute("points").count(",") == len(looks[0]["course"])
    cause = part.locator(".cause").first
    cause.get_by_role("button").evaluate("button => button.click()")
    cause.get_by_text("other questions would be guessed the other way").wait_for()
    drift.get_by_role("button").click()
    part.get_by_text("Old picks count less already").first.wait_for()
    settle(page)
    fading = store.person(fickle.id).half_life
    assert fading == get(server, f"{fickle.id}/why")["drift"][0]["half_life"] == PICKS / 2
