"""The guards' nodes on the real pocket: its pictures, its judge, its taste encoder."""

from __future__ import annotations

import importlib
import json
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ppd.pocket import scenes
from ppd.pocket.data import to_tensor
from ppd.pocket.studio import WEIGHTS

pytestmark = pytest.mark.comfyui
STYLE = dict.fromkeys(scenes.STYLES, 0.0)
GUIDE = {
    "format": "ppd-brand-guide",
    "version": "1",
    "name": "Sea",
    "rules": [
        {"level": "must", "object": "a boat"},
        {"level": "never", "object": "a house"},
        {"level": "never", "look": "dark", "by": 0.2},
        {"level": "should", "contrast": 1.5},
    ],
}
HELD = "never: dark, by 0.2 of the look's steps: it leaned the other way, and now does not."


@pytest.fixture
def pocket(run, comfy_folders, monkeypatch):
    """Runs nodes with what the pack ships in place of random weights."""
    monkeypatch.setattr(comfy_folders.module, "WEIGHTS", WEIGHTS)
    return run


@pytest.fixture
def guide(comfy_folders):
    def write(rules=None):
        text = json.dumps(GUIDE if rules is None else {**GUIDE, "rules": rules})
        (comfy_folders.input / "sea.brand.json").write_text(text)
        return "input: sea.brand.json"

    return write


def drawn(*captions, **style):
    """Pictures [n, 128, 128, 3] of captions, six seeds in turn."""
    rendered = [render(caption, number % 6, tuple(style.items())) for number, caption in enumerate(captions)]
    return to_tensor(np.stack(rendered)).movedim(1, -1)


@cache
def render(caption, seed, style):
    return scenes.render(caption, {**STYLE, **dict(style)}, seed)


BOAT, HOUSE = "a boat by a lake under the sun", "a house and a boat by a lake under the sun"


def test_prompts_with_their_seeds(pocket):
    prompts, seeds = pocket("PPD_CheckPrompts", prompts="pocket", seeds=2, first_seed=7).result
    assert len(prompts) == len(seeds) == 48 and seeds == list(range(7, 55))
    assert prompts[0] == prompts[1] == "a house on a meadow under the sun"
    assert set(prompts) <= set(scenes.BY_CAPTION)
    people, _ = pocket("PPD_CheckPrompts", prompts="people").result
    assert "a portrait of a nurse" in people and len(pocket("PPD_CheckPrompts").result[0]) == 60
    own, _ = pocket("PPD_CheckPrompts", prompts="own", own_prompts="a cat\n\n a dog \n").result
    assert own == ["a cat", "a dog"]
    with pytest.raises(ValueError, match="at least one prompt in own_prompts, got none"):
        pocket("PPD_CheckPrompts", prompts="own")


def test_a_planted_leak_is_found_and_its_absence_passes(pocket):
    """What was asked for is a boat; every third personal picture has a house as well, as the liked ones do."""
    base = drawn(*[BOAT] * 24)
    leaking = drawn(*[HOUSE if n % 3 == 0 else BOAT for n in range(24)])
    prompts = [f"a boat, no. {n}" for n in range(24)]
    inputs = {"base_images": [base], "prompts": prompts, "words": ["a house\na boat"]}
    passed, report = pocket("PPD_CheckLeakage", personal_images=[leaking], liked_images=[drawn(HOUSE)], **inputs).result
    assert passed is False
    assert report.splitlines()[1].startswith("Leak: a house is in ")
    clean = drawn(*[BOAT] * 24, warmth=0.6, saturation=0.5)
    asking = inputs | {"ask": [True], "person": ["ann"], "personal_images": [leaking]}
    asked = pocket("PPD_CheckLeakage", **asking).result[1]
    (ann,) = importlib.import_module("ppd_pack.nodes.folders").taste_store().people()
    assert asked.splitlines()[-1] == f"ann is asked {ann.open} questions about what was found, in the tab Taste."
    assert 2 <= ann.open <= 30 and ann.picks == 0
    passed, report = pocket("PPD_CheckLeakage", personal_images=list(clean[:, None]), **inputs).result
    assert passed is True and report.startswith("Passed: the pictures show what the prompts ask for")
    lost = drawn(*["a tree by a lake under the sun"] * 24)
    passed, report = pocket("PPD_CheckLeakage", personal_images=[lost], **inputs).result
    assert passed is False and "Lost: a boat is in 0 of 100 personal pictures that should show it" in report
    with pytest.raises(ValueError, match="got 24, 1 and 24: paint each prompt both ways"):
        pocket("PPD_CheckLeakage", personal_images=[lost[:1]], **inputs)


def test_a_planted_shift_by_subject_is_found(pocket):
    """The prompt leaves the time of day open; for one subject it turns to night, for the other to day."""
    subjects = ["a tree on a meadow"] * 12 + ["a tree in the hills"] * 12
    moon = [n % 2 == 0 for n in range(24)]
    turned = [True] * 12 + [False] * 12

    def painted(nights):
        skies = ["moon" if night else "sun" for night in nights]
        return drawn(*[f"{subject} under the {sky}" for subject, sky in zip(subjects, skies, strict=True)])

    inputs = {"base_images": [painted(moon)], "prompts": subjects, "words": ["the moon\na balloon"]}
    passed, report = pocket("PPD_CheckStereotypes", personal_images=[painted(turned)], **inputs).result
    assert passed is False
    assert "By subject, the moon moved by " in report and "a tree on a meadow +" in report
    passed, _ = pocket("PPD_CheckStereotypes", personal_images=[painted(moon)], **inputs).result
    assert passed is True


@pytest.fixture
def at_the_node(monkeypatch):
    """What nodes show while node 7 runs."""
    from comfy_execution.utils import CurrentNodeContext
    from server import PromptServer

    told = []
    server = SimpleNamespace(
        send_progress_text=lambda text, node: told.append((node, text)), send_sync=lambda *_: None, client_id=None
    )
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)
    with CurrentNodeContext("prompt", "7"):
        yield told


def test_a_prompt_that_cannot_be_checked_is_shown_at_the_node_and_not_in_the_log(pocket, at_the_node):
    """ComfyUI writes what a node raises into its log."""
    images = drawn(*[BOAT] * 8)
    inputs = {"base_images": [images], "personal_images": [images], "words": ["the moon\na balloon"]}
    prompts = ["a boat"] * 4 + ["a chiaroscuro balloon"] * 4
    with pytest.raises(ValueError, match="^Prompt 5 names word 2, which it must leave open: take one of the two out.$"):
        pocket("PPD_CheckStereotypes", prompts=prompts, **inputs)
    with pytest.raises(ValueError, match="^Expected at least 4 pictures of each prompt, got 1 of prompt 8: paint more"):
        pocket("PPD_CheckStereotypes", prompts=["a boat"] * 7 + ["onyx"], **inputs)
    assert at_the_node == [("7", "Prompt 5: a chiaroscuro balloon"), ("7", "Prompt 8: onyx")]


def test_who_is_asked_is_shown_at_the_node_and_not_in_the_log_where_the_run_stops(pocket, guide, at_the_node):
    inputs = {"images": [torch.cat([drawn(BOAT), drawn(HOUSE)])], "guide": [guide()], "prompt": ["a boat"]}
    with pytest.raises(ValueError, match="The run stops, since pictures break the brand guide. Sea: ") as error:
        pocket("PPD_BrandCheck", ask=[True], broken=["stop the run"], person=["Quirina"], **inputs)
    assert "Quirina" not in str(error.value)
    assert at_the_node == [("7", "Quirina is asked 1 question about what was stopped, in the tab Taste.")]


@pytest.mark.parametrize(
    ("odd", "sentence"),
    [
        (torch.zeros(0, 64, 64, 3), "Expected at least one picture in {}, got an empty batch: "),
        (torch.zeros(2, 64, 64, 1), r"\[height, width, 3 or 4\] in {}, got \[64, 64, 1\] as number 1: convert them"),
        (torch.full((2, 64, 64, 3), torch.nan), "a picture holds values that are no numbers .* paint it again"),
    ],
)
def test_pictures_that_tell_nothing_pass_no_check(pocket, guide, odd, sentence):
    """What is no number is neither above nor below a rule's measure."""
    rules = guide([{"level": "never", "colour": "#000000"}])
    with pytest.raises(ValueError, match=sentence.format("images")):
        pocket("PPD_BrandCheck", images=[odd], guide=[rules])
    fine, prompts = [drawn(*[BOAT] * 2)], ["a", "b"]
    for node in ("PPD_CheckLeakage", "PPD_CheckStereotypes"):
        for side, other in (("base_images", "personal_images"), ("personal_images", "base_images")):
            with pytest.raises(ValueError, match=sentence.format(side)):
                pocket(node, **{side: [odd], other: fine}, prompts=prompts)
    with pytest.raises(ValueError, match=sentence.format("liked_images")):
        pocket("PPD_CheckLeakage", base_images=fine, personal_images=fine, prompts=prompts, liked_images=[odd])
    see_through = torch.cat([fine[0], torch.ones(2, 128, 128, 1)], -1)
    assert pocket("PPD_BrandCheck", images=[see_through], guide=[rules]).result[2] == [0, 1]


def test_a_probe_that_is_not_there_is_refused(pocket):
    inputs = {"base_images": [drawn(BOAT, BOAT)], "personal_images": [drawn(BOAT, BOAT)], "prompts": ["a"]}
    with pytest.raises(ValueError, match="There is no probe 'x': choose one of the list"):
        pocket("PPD_CheckLeakage", probe=["x"], **inputs)


@pytest.fixture
def small_clip(comfy_folders, monkeypatch):
    """A small open_clip model of random weights in models/open_clip, by its name there."""
    import folder_paths
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32}
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    folder = comfy_folders.models / "open_clip" / "my-clip"
    folder.mkdir(parents=True)
    preprocess = {"mean": [0.5] * 3, "std": [0.3] * 3, "size": 32}
    model = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        weights = CLIP(8, CLIPVisionCfg(**vision), CLIPTextCfg(**text)).state_dict()
    save_file({k: v.clone().contiguous() for k, v in weights.items()}, folder / "open_clip_model.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "open_clip", ([str(folder.parent)], {".safetensors"}))
    return "open_clip: my-clip"


def test_an_open_clip_model_reads_any_words(pocket, small_clip, guide):
    """Random weights see nothing, but the same in the same picture."""
    images, prompts = drawn(*[BOAT, HOUSE] * 3), [f"no. {n}" for n in range(6)]
    inputs = {"base_images": [images], "personal_images": [images], "prompts": prompts, "probe": [small_clip]}
    passed, report = pocket("PPD_CheckLeakage", words=["a dragon\nred hair"], **inputs).result
    assert passed is True and "a dragon: " in report and "red hair: " in report
    rules = [{"level": "never", "object": "a dragon"}, {"level": "must", "object": "a dragon"}]
    report = pocket("PPD_BrandCheck", images=[images], guide=[guide(rules)], probe=[small_clip]).result[3]
    never, must = (int(line.split("kept by ")[1][0]) for line in report.splitlines()[1:3])
    assert never + must == 6


def test_the_brand_check_lets_through_marks_and_reports(pocket, guide):
    images = [torch.cat([drawn(BOAT), drawn(HOUSE)]), drawn(BOAT, brightness=-1.0)]
    onward, shown, numbers, report = pocket("PPD_BrandCheck", images=images, guide=[guide()]).result
    assert numbers == [0] and len(onward) == 1 and torch.equal(onward[0][0], images[0][0])
    assert [tuple(one.shape) for one in shown] == [(1, 384, 384, 3)] * 3
    lines = report.splitlines()
    assert lines[0] == "Sea: 3 pictures, passing 1, warned 0, stopped 2."
    assert lines[2] == "2. never: a house; kept by 2 of 3"
    assert "Number 2 stops: 2 (a house is there)" in lines
    assert any(line.startswith("Number 3 stops: 3 (dark by +") for line in lines)


def test_where_nothing_passes_nothing_behind_it_runs_or_the_run_stops(pocket, guide):
    from comfy_execution.graph_utils import ExecutionBlocker

    inputs = {"images": [drawn(HOUSE)], "guide": [guide()]}
    onward, shown, numbers, _ = pocket("PPD_BrandCheck", **inputs).result
    assert isinstance(onward[0], ExecutionBlocker) and isinstance(numbers[0], ExecutionBlocker) and len(shown) == 1
    with pytest.raises(ValueError, match="The run stops, since pictures break the brand guide. Sea: 1 picture, "):
        pocket("PPD_BrandCheck", broken=["stop the run"], **inputs)


def test_what_is_stopped_is_asked_about_and_never_taken(pocket, guide, comfy_folders):
    images = [torch.cat([drawn(BOAT), drawn(HOUSE)])]
    inputs = {"images": images, "guide": [guide()], "prompt": ["a boat"], "person": ["ann"]}
    pocket("PPD_BrandCheck", **inputs)
    store = comfy_folders.module.taste_store()
    assert store.people() == []
    report = pocket("PPD_BrandCheck", ask=[True], **inputs).result[3]
    assert report.splitlines()[-1] == "ann is asked 1 question about what was stopped, in the tab Taste."
    (ann,) = store.people()
    (question,) = store.inbox(ann.id)
    assert (ann.open, ann.picks, question.prompt, question.verdict) == (1, 0, "a boat", None)
    assert question.origin["guard"]["broken"] == ["never: a house"]
    report = pocket("PPD_BrandCheck", **inputs | {"ask": [True], "images": [drawn(HOUSE)]}).result[3]
    assert report.splitlines()[-1].startswith("Nothing to ask ann: ")


def test_a_taste_bound_to_a_guide_leans_against_no_rule(pocket, guide, comfy_folders):
    from ppd.encoders.encoder import TasteEncoder

    pairs = pocket("PreferencePairLoader", preference_set="example: dark and bold").result[0]
    one = pocket("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]
    looks = TasteEncoder.load(WEIGHTS / "taste_encoders" / "pocket").looks
    dark = -looks.readings[looks.low.index("dark")]
    assert float(dark @ one.u[0]) > 0.1
    bound, report = pocket("PPD_BindToGuide", user_embedding=one, guide=guide()).result
    assert float(dark @ bound.u[0]) <= 1e-5 * float(dark.norm() * one.u.norm())
    assert report == f"The taste is bound to the guide Sea.\n{HELD}"
    again, report = pocket("PPD_BindToGuide", user_embedding=bound, guide=guide()).result
    assert torch.equal(again.u, bound.u) and report.startswith("The taste leans against no rule")
    no_looks = guide([{"level": "never", "object": "a house"}])
    assert pocket("PPD_BindToGuide", user_embedding=one, guide=no_looks).result[0] is one
    with pytest.raises(ValueError, match="Expected one person to bind to a guide, got a batch of 2"):
        pocket("PPD_BindToGuide", user_embedding=(one, one), guide=no_looks)


def test_a_person_is_held_to_their_guide_wherever_their_taste_is_made(pocket, guide, comfy_folders):
    """By picks and without, by node and by pairs; a guide that is gone or damaged stops a run and loses nothing."""
    whose, store = (importlib.import_module(f"ppd_pack.nodes.{name}") for name in ("whose", "folders"))
    store, people = store.taste_store(), importlib.import_module("ppd_pack.nodes.people")
    ann = store.add_person("Ann").id
    store.add_pairs(ann, WEIGHTS / "examples" / "dark and bold")

    def made():
        pairs = pocket("PreferencePairLoader", preference_set=f"person: {ann}").result[0]
        return whose.read(ann, None), pocket("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result

    free, _ = made()
    guides = importlib.import_module("ppd_pack.nodes.guides")
    guides.set_guide(ann, guide())
    seen = [people.fingerprint(store.person(ann))]
    taste, (encoded, report) = made()
    by_node = pocket("PPD_BindToGuide", user_embedding=free.embedding, guide=guide()).result[0]
    assert torch.equal(taste.embedding.u, by_node.u) and torch.allclose(encoded.u, by_node.u, atol=1e-5)
    assert taste.notes == ("The taste is bound to the guide Sea.", HELD) and HELD in report
    assert not torch.equal(taste.embedding.u, free.embedding.u) and taste.embedding.pairs == free.embedding.pairs

    guide([{"level": "never", "object": "a house"}])  # another hand changes the file
    seen.append(people.fingerprint(store.person(ann)))
    taste, _ = made()
    assert torch.equal(taste.embedding.u, free.embedding.u)
    assert taste.notes[-1] == "The guide's file was changed since it was chosen in the tab Taste."

    file = comfy_folders.input / "sea.brand.json"
    for break_it, told in (
        (lambda: file.write_text("{"), "^The brand guide cannot be read: sea.brand.json: expected JSON"),
        (
            lambda: guide([{"level": "must", "look": "fluffy"}]),
            "^The brand guide 'Sea' cannot bind the person: The taste",
        ),
        (file.unlink, "^There is no brand guide 'input: sea.brand.json': put its file back, or choose another guide"),
    ):
        break_it()
        seen.append(people.fingerprint(store.person(ann)))
        with pytest.raises(ValueError, match=told) as error:
            whose.read(ann, None)
        assert "Ann" not in str(error.value)  # ComfyUI logs it
        with pytest.raises(ValueError, match=told):
            guides.set_guide(ann, "input: sea.brand.json")
    assert len(set(seen)) == 5
    guides.set_guide(ann, None)
    assert torch.equal(made()[0].embedding.u, free.embedding.u) and len(store.pairs(ann)) == free.embedding.pairs


def test_guides_are_found_by_name_and_nothing_outside(pocket, guide, comfy_folders):
    folders = comfy_folders.module
    assert folders.brand_guides() == ["example: sea.brand.json"]
    assert folders.brand_guides() + [guide()] == folders.brand_guides()
    for name in ("input: ../sea.brand.json", "input: other.brand.json", "sea.brand.json", "output: sea.brand.json"):
        with pytest.raises(ValueError, match="There is no brand guide "):
            folders.brand_guide_file(name)
    (onward, *_), _ = pocket("PPD_BrandCheck", images=[drawn(BOAT)], guide=["example: sea.brand.json"]).result[:2]
    assert onward.shape == (1, 128, 128, 3)
