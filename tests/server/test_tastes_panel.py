"""Sharing, saving and going back, in the tab of the real frontend."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from .panels import graph_of

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]
DROP = """([name, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name));
    for (const type of ["dragover", "drop"]) {
        const event = new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true });
        document.querySelector(".tastes .drop").dispatchEvent(event);
    }
}"""


@pytest.fixture
def folder(server):
    folder = server.base / "models" / "user_embeddings"
    folder.mkdir(exist_ok=True)
    before = set(folder.iterdir())
    yield folder
    for path in set(folder.iterdir()) - before:
        path.unlink()


@pytest.fixture
def picker(store, somebody):
    """Somebody who has picked once long ago and once today."""
    person, asked = somebody
    for number, candidate in enumerate(asked[:2]):
        store.pick(candidate, "first", f"{person} {number}")
    picks = sorted(one.pick for one in store.history(person))
    with store.database.writing() as database:
        database.execute("UPDATE picks SET created = '2026-01-05T12:00:00+00:00' WHERE id = ?", (picks[0],))
    return store.person(person)


def test_save_drop_code_blend_and_go_back(server, store, picker, folder, open_panel, tmp_path):
    page = open_panel(picker.id)
    graph = graph_of(page)
    page.get_by_text("Share, save, go back").click()
    part, notice = page.locator(".ppd-taste .tastes"), page.locator(".ppd-taste .notice")
    with page.expect_download() as saving:
        part.get_by_text("Save as a file").click()
    saved = tmp_path / "plain.safetensors"
    saving.value.save_as(saved)
    assert saving.value.suggested_filename.startswith("taste ") and picker.name.encode() not in saved.read_bytes()
    part.get_by_label(f"with the name {picker.name}").check()
    part.get_by_label("with the picture picked last, small").check()
    part.get_by_label("A note to go with it").fill("evenings")
    with page.expect_download() as saving:
        part.get_by_text("Save as a file").click()
    saving.value.save_as(saved)
    with safe_open(saved, "pt") as file:
        assert (file.metadata()["name"], file.metadata()["note"]) == (picker.name, "evenings")
    page.evaluate(DROP, ["friend.safetensors", list(saved.read_bytes())])
    part.locator(".taste-file", has_text="evenings").wait_for()
    assert (folder / "friend.safetensors").is_file()
    assert part.locator(".taste-file img").evaluate_all("all => all.some(one => one.naturalWidth > 0)")
    part.get_by_text("Copy as a code").click()
    notice.get_by_text("The code is copied").wait_for()
    code = part.get_by_label("Code", exact=True).input_value()
    assert code.startswith("ppd1:")
    assert part.locator(".code-told").inner_text() == "This code has no noise: your taste is in it as it is."
    part.get_by_label("Noise that hides each pick (epsilon)").fill("8")
    part.get_by_text("Copy as a code").click()
    part.get_by_text("In this code noise hides each single pick (epsilon 8, delta 0.00001).").wait_for()
    assert part.get_by_label("Code", exact=True).input_value().startswith("ppd2:")
    part.get_by_label("Paste a code").fill(code)
    part.get_by_label("Paste a code").press("Enter")
    notice.get_by_text("Kept as taste.safetensors").wait_for()
    part.get_by_label("Paste a code").fill(code[:-4])
    part.get_by_label("Paste a code").press("Enter")
    notice.get_by_text("damaged or cut short").wait_for()
    for place, choice in enumerate((picker.id, "friend.safetensors")):  # others in the store have other taste encoders
        blended = part.get_by_label("Blend of", exact=True).nth(place)
        value = blended.locator(f"option[value$='{choice}']").get_attribute("value")
        blended.select_option(value=value)
    part.get_by_label("Name", exact=True).fill("both")
    part.get_by_text("Blend", exact=True).click()
    notice.get_by_text("Kept as both.safetensors").wait_for()
    assert (folder / "both.safetensors").is_file()
    part.get_by_label("Back to an earlier day").select_option(label="2026-01-05, picks: 1")
    page.get_by_role("dialog").get_by_role("textbox").fill(f"{picker.name[:40]} before")
    page.keyboard.press("Enter")
    notice.get_by_text("Gone back. What was there is kept as").wait_for()
    assert store.person(picker.id).picks == 1
    copy = store.person_called(f"{picker.name[:40]} before")
    assert copy.picks == 2
    store.delete_person(copy.id)
    assert graph_of(page) == graph
    assert not list(Path(folder).glob(".*"))


def test_a_new_file_is_in_my_tastes_list_at_once(server, picker, folder, open_panel):
    page = open_panel(picker.id)
    page.evaluate("app.graph.clear(), app.graph.add(LiteGraph.createNode('PPD_MyTaste'))")
    values = "app.graph.nodes[0].widgets.find(one => one.name === 'person').options.values"
    assert picker.id in page.evaluate(values) and page.evaluate(values)[:2] == ["tab", "me"]
    label = f"app.graph.nodes[0].widgets.find(one => one.name === 'person').options.getOptionLabel('{picker.id}')"
    assert page.evaluate(label) == f"{picker.name} · 2 picks"
    page.get_by_text("Share, save, go back").click()
    part = page.locator(".ppd-taste .tastes")
    part.get_by_text("Copy as a code").click()
    page.wait_for_function("document.querySelector('.tastes input[readonly]').value")
    part.get_by_label("Paste a code").fill(part.get_by_label("Code", exact=True).input_value())
    part.get_by_label("Paste a code").press("Enter")
    page.wait_for_function(f"{values}.includes('taste: taste.safetensors')")
    assert picker.id in page.evaluate(values)


def test_what_is_typed_stays_when_somebody_picks(store, picker, open_panel):
    page = open_panel(picker.id)
    page.get_by_text("Share, save, go back").click()
    note = page.get_by_label("A note to go with it")
    note.fill("half a sen")
    page.get_by_label("Left is better").click()
    page.locator(".ppd-taste .progress").get_by_text("Picks: 3.").wait_for()
    assert note.input_value() == "half a sen"
