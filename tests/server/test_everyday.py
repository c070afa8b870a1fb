"""My Taste, Sort by Taste and bypassed nodes in the real server."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from ppd.pictures import Picture

pytestmark = pytest.mark.comfyui
MINE, BEST, LEARN = "my taste", "best of my taste", "learn my taste"


@pytest.fixture
def few_steps(server, graphs):
    """A shipped workflow in a few steps for somebody."""

    def prompt(name, person):
        prompt = server.prompt(name)
        for class_type in ("KSampler", "PersonalizedDenoiser"):
            prompt = graphs.set_inputs(prompt, class_type, steps=4)
        for class_type in ("PPD_MyTaste", "PPD_SortByTaste", "PPD_PreferenceCollector"):
            prompt = graphs.set_inputs(prompt, class_type, person=person)
        return graphs.set_inputs(prompt, "PreferencePairLoader", preference_set=f"person: {person}")

    return prompt


@pytest.fixture
def warm(store, request):
    """Somebody who picked the warm and vivid picture five times."""
    person = store.add_person(request.node.name[:60]).id
    for number in range(5):
        colours = ((250, 120 + 10 * number, 40), (90, 100, 110 + 10 * number))
        pictures = [Picture.from_image(Image.new("RGB", (128, 128), colour)) for colour in colours]
        store.pick(store.add_candidate(person, "a lake", *pictures), "first", f"{person} {number}")
    yield person
    store.delete_person(person)


def text_of(entry, node):
    return entry["outputs"][node]["text"][0]


def test_one_node_makes_the_model_personal_is_kept_and_knows_the_next_pick(server, store, graphs, few_steps, warm):
    prompt = few_steps(MINE, warm)
    (mine,), (sampler,) = (graphs.nodes_of(prompt, name) for name in ("PPD_MyTaste", "KSampler"))
    entry = server.run(prompt)
    (personal,) = server.pictures(entry).values()
    assert text_of(entry, mine) == (
        f"Paints for {store.person(warm).name} by 5 picks, at strength 1.\n"
        "Took the user adapter pocket-flow, and the taste encoder pocket-flow."
    )
    entry = server.run(graphs.set_inputs(prompt, "KSampler", seed=8))
    assert mine in entry["cached"] and sampler not in entry["cached"]
    latest = store.history(warm)[0]
    store.pick(latest.id, "second", f"{warm} revised")
    again = server.run(prompt)
    assert mine not in again["cached"]
    bypassed = {node: entry for node, entry in prompt.items() if node != mine and entry["class_type"] != "PreviewAny"}
    bypassed[sampler]["inputs"]["model"] = prompt[mine]["inputs"]["model"]  # what the frontend makes of a bypass
    (plain,) = server.pictures(server.run(bypassed)).values()
    off = graphs.set_inputs(prompt, "PPD_MyTaste", strength=0.0)
    off[sampler]["inputs"]["model"] = [mine, 0]
    entry = server.run(off)
    (none,) = server.pictures(entry).values()
    assert np.array_equal(none, plain) and not np.array_equal(personal, plain)
    assert text_of(entry, mine).startswith("The plain picture: strength is 0.")


def test_after_a_run_without_a_personal_step_the_node_says_so_until_there_is_one(server, graphs, few_steps, warm):
    """And, with nobody at the browser, says it to nobody."""
    prompt = few_steps(MINE, warm)
    (node,) = graphs.nodes_of(prompt, "PPD_MyTaste")
    late = graphs.set_inputs(graphs.set_inputs(prompt, "KSampler", denoise=0.6), "PPD_MyTaste", end_percent=0.2)

    def told(prompt):
        return [text for where, text in server.watch(prompt).lines if where == node]

    plain = "No step was personal: raise denoise or end_percent. The person acts from 0% to 20% of the noise schedule."
    server.run(prompt)  # whatever other tests did
    assert told(graphs.set_inputs(prompt, "KSampler", seed=97)) == []
    assert told(late) == [plain]
    counted = "Personal were 4 of 4 calls of the model, in 60 of 60 layers."
    assert told(graphs.set_inputs(prompt, "KSampler", seed=98)) == [counted]
    server.run(graphs.set_inputs(late, "KSampler", seed=99))


def test_words_of_a_taste_go_into_a_prompt_and_prompts_lean_in_any_sampler(server, store, graphs, few_steps, warm):
    """Of Taste to Text into the stock node for prompts; and at strength 0 a prompt is itself."""
    prompt = few_steps(MINE, warm)
    (mine,), (sampler,) = (graphs.nodes_of(prompt, name) for name in ("PPD_MyTaste", "KSampler"))
    text, checkpoint = prompt[sampler]["inputs"]["positive"][0], prompt[mine]["inputs"]["model"][0]
    words = {"person": warm, "prompt": prompt[text]["inputs"]["text"], "least_sure": 0.5}
    prompt["words"] = {"class_type": "PPD_TasteToText", "inputs": words}
    leaning = {"model": [checkpoint, 0], "clip": [checkpoint, 1], "person": warm, "strength": 0.0}
    prompt["lean"] = {"class_type": "PPD_ApplyTasteToConditioning", "inputs": leaning}
    prompt["shown"] = {"class_type": "PreviewAny", "inputs": {"source": ["lean", 1]}}
    prompt["liked"] = {"class_type": "PreviewAny", "inputs": {"source": ["words", 0]}}
    prompt[sampler]["inputs"]["model"] = ["lean", 0]
    entry = server.run(prompt)
    (none,) = server.pictures(entry).values()
    assert text_of(entry, "shown") == "The prompt is as it is: strength is 0."
    assert text_of(entry, "liked").startswith(words["prompt"] + ", ")
    assert "vivid" in text_of(entry, "liked")
    plain = graphs.set_inputs(prompt, "KSampler", model=[checkpoint, 0])
    (expected,) = server.pictures(server.run(plain)).values()
    assert np.array_equal(none, expected)
    prompt["lean"]["inputs"]["strength"] = 1.0
    prompt[text]["inputs"]["text"] = ["liked", 0]
    entry = server.run(prompt)
    assert text_of(entry, "shown").startswith("Leans to ") and store.person(warm).name in text_of(entry, "shown")


def test_the_two_best_of_a_batch_are_asked_and_the_best_is_saved_with_its_score(server, store, graphs, few_steps, warm):
    prompt = graphs.set_inputs(few_steps(BEST, warm), "PPD_SortByTaste", save_scores=True)
    prompt = graphs.set_inputs(prompt, "ImageScaleBy", scale_by=1.0)
    (sort,), (saver,) = (graphs.nodes_of(prompt, name) for name in ("PPD_SortByTaste", "SaveImage"))
    (decode,) = graphs.nodes_of(prompt, "VAEDecode")
    prompt["all"] = {"class_type": "SaveImage", "inputs": {"images": [decode, 0], "filename_prefix": "best/all"}}
    data = {"prompt": prompt, "client_id": "tests", "extra_data": {"extra_pnginfo": {"workflow": {"nodes": []}}}}
    entry = server.finished(server.post("/prompt", data)["prompt_id"])
    assert entry["status"]["status_str"] == "success"
    report, pictures = text_of(entry, sort), server.pictures(entry)
    first, second = (int(line.split("number ")[1].split(":")[0]) - 1 for line in report.splitlines()[2:4])
    assert report.startswith(f"4 pictures sorted for {store.person(warm).name} by 5 picks, best first, 2 kept.")
    assert np.array_equal(pictures[saver][0], pictures["all"][first])
    (question,) = store.inbox(warm)
    asked = [np.asarray(Picture(store.picture(digest)).open()) for digest in (question.first, question.second)]
    for shown, index in zip(asked, (first, second), strict=True):
        assert np.abs(shown.astype(int) - pictures["all"][index]).max() <= 1  # Save Image cuts what we round
    (image,) = entry["outputs"][saver]["images"]
    written = PngImageFile(server.base / "output" / image["subfolder"] / image["filename"]).text
    note = json.loads(written["ppd_taste"])
    assert set(note) == {"scores", "taste_encoder"} and len(note["scores"]) == 2
    assert f"{note['scores'][0]:+.2f}" in report.splitlines()[2]
    assert store.person(warm).name not in json.dumps(written)


def test_scores_are_not_written_unless_asked_for(server, graphs, few_steps, warm):
    prompt = few_steps(BEST, warm)
    data = {"prompt": prompt, "client_id": "tests", "extra_data": {"extra_pnginfo": {"workflow": {"nodes": []}}}}
    entry = server.finished(server.post("/prompt", data)["prompt_id"])
    (saver,) = graphs.nodes_of(prompt, "SaveImage")
    (image,) = entry["outputs"][saver]["images"]
    path = server.base / "output" / image["subfolder"] / image["filename"]
    assert "ppd_taste" not in PngImageFile(path).text


def without(prompt, class_type, graphs):
    """A graph with the nodes of a class bypassed, as the frontend sends it: what they fed is fed by their input of the
    same type, or left open."""
    gone = set(graphs.nodes_of(prompt, class_type))
    changed = {node: {**entry, "inputs": dict(entry["inputs"])} for node, entry in prompt.items() if node not in gone}
    for entry in changed.values():
        for name, value in list(entry["inputs"].items()):
            if isinstance(value, list) and value[0] in gone:
                through = prompt[value[0]]["inputs"].get("user_embedding")
                if class_type == "PPD_UserEmbeddingSample" and through:
                    entry["inputs"][name] = through
                else:
                    del entry["inputs"][name]
    return {node: entry for node, entry in changed.items() if entry["class_type"] != "PreviewAny"}


@pytest.mark.parametrize("name", ["PPD_UserAdapterLoader", "PreferencePairLoader", "UserEmbeddingEncoder"])
def test_a_bypassed_node_of_ours_paints_the_plain_picture_and_the_report_says_so(server, graphs, few_steps, warm, name):
    prompt = few_steps(LEARN, warm)
    *_, sampler = graphs.nodes_of(prompt, "PersonalizedDenoiser")
    prompt = without(prompt, name, graphs)
    inputs = {key: value for key, value in prompt[sampler]["inputs"].items() if not key.startswith("user_")}
    settings = ("strength", "layers", "start_percent", "end_percent", "words_strength")
    prompt["plain"] = {
        "class_type": "KSampler",
        "inputs": {key: value for key, value in inputs.items() if key not in settings},
    }
    (saver,) = graphs.nodes_of(prompt, "SaveImage")
    decode = next(node for node, entry in prompt.items() if entry["inputs"].get("samples") == [sampler, 0])
    vae = prompt[decode]["inputs"]["vae"]
    for node, samples in (("plain", "plain"), ("ours", sampler)):
        prompt[f"{node} decoded"] = {"class_type": "VAEDecode", "inputs": {"samples": [samples, 0], "vae": vae}}
        prompt[f"{node} saved"] = {
            "class_type": "SaveImage",
            "inputs": {"images": [f"{node} decoded", 0], "filename_prefix": f"bypass/{node}"},
        }
    del prompt[saver]
    for node in graphs.nodes_of(prompt, "PPD_PreferenceCollector"):
        del prompt[node]  # two plain pictures of one seed are no question
    entry = server.run(prompt)
    pictures = server.pictures(entry)
    assert np.array_equal(pictures["ours saved"], pictures["plain saved"])
    assert text_of(entry, sampler).startswith("Personalization is off: ")


def test_no_saved_picture_tells_a_name(server, store, graphs, few_steps, warm):
    """Nor by what nodes give ComfyUI as a fingerprint, which it writes into the picture."""
    prompt = few_steps(LEARN, warm)
    (image,) = server.run(prompt)["outputs"][graphs.nodes_of(prompt, "SaveImage")[0]]["images"]
    written = PngImageFile(server.base / "output" / image["subfolder"] / image["filename"]).text["prompt"]
    (pairs,) = graphs.nodes_of(prompt, "PreferencePairLoader")
    assert json.loads(written)[pairs]["is_changed"] and warm in written
    assert store.person(warm).name not in written
