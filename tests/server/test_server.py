"""The pack in a real ComfyUI server: nodes, templates, and every shipped workflow run through the API."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from ppd.store import TasteStore

pytestmark = pytest.mark.comfyui
ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
STUDIES, WORDS, TRAIN = "paint studies", "paint with words", "train your own adapter"
WORDED = "mine or in words"
OTHERS = (STUDIES, TRAIN, "check a taste", WORDED)
POCKET = [name for name in WORKFLOWS if (" with " not in name or name == WORDS) and name not in OTHERS]
"""Those that run as they are; test_checkpoints.py and test_studies.py bring the others' files, test_templates.py and
test_training.py ask whether the server takes those whose files nobody can bring; test_guard.py runs the one that checks
many pictures, and what WORDED paints is looked at below."""
FIRST, BLEND, SWEEP, LEARN = "first personal picture", "blend two people", "strength sweep", "learn my taste"
MINE, BEST, TURNED, CODE = "my taste", "best of my taste", "one look turned", "paint for a taste code"
BLIND = "is it really mine"
DARK, PALE = "dark and bold", "pale and soft"
NODE_IDS = {
    "PPD_TestPrompts",
    "PPD_BlindTest",
    "PPD_JudgePictures",
    "PreferencePairLoader",
    "PPD_PreferenceCollector",
    "PPD_UserEmbeddingSample",
    "UserEmbeddingEncoder",
    "PPD_UserEmbeddingSave",
    "PPD_SaveTasteAsLoRA",
    "PPD_TasteToText",
    "PPD_ExplainTaste",
    "PPD_TurnLook",
    "PPD_ApplyTasteToConditioning",
    "PPD_UserEmbeddingLoad",
    "PPD_UserEmbeddingBlend",
    "PPD_UserEmbeddingBatch",
    "PPD_UserAdapterLoader",
    "PPD_IPAdapterLoader",
    "PPD_MyTaste",
    "PPD_TasteCode",
    "PPD_TasteToCode",
    "PPD_SortByTaste",
    "PPD_ApplyUserEmbedding",
    "PersonalizedDenoiser",
    "PPD_PocketCheckpointLoader",
    "PPD_PaintStudies",
    "PPD_AddStudies",
    "PPD_MakeTasteEncoder",
    "PPD_TrainUserAdapter",
    "PPD_CheckPrompts",
    "PPD_CheckLeakage",
    "PPD_CheckStereotypes",
    "PPD_BrandCheck",
    "PPD_BindToGuide",
}
BATCH = 4
"""Latents that a person's direction is looked for in: single pictures are noisy."""


def test_all_nodes_are_registered_from_a_hyphenated_directory(server):
    modules = {name: info["python_module"] for name, info in server.object_info.items()}
    ours = {name for name, module in modules.items() if module == "custom_nodes.personalized-diffusion"}
    assert ours == NODE_IDS
    for name in NODE_IDS:
        info = server.object_info[name]
        assert info["description"] and info["display_name"] and info["search_aliases"], name
        for part in ("required", "optional"):
            for entry, (_, options) in info["input"].get(part, {}).items():
                assert options.get("tooltip"), f"{name}.{entry} has no tooltip"
        assert all(info["output_tooltips"]), name


def test_the_server_started_without_a_word_against_the_pack(server):
    text = server.log.read_text(encoding="utf-8")
    assert "IMPORT FAILED" not in text
    assert "Traceback" not in text.split("Starting server")[0]


def test_help_pages_are_served(server):
    for name in NODE_IDS:
        with urllib.request.urlopen(f"{server.url}/extensions/personalized-diffusion/docs/{name}.md") as answer:
            assert answer.read().strip()


def test_workflows_are_listed_and_served_as_templates(server):
    assert {FIRST, BLEND, SWEEP, LEARN, MINE, BEST, WORDS, TURNED, CODE, BLIND} == set(POCKET) < set(WORKFLOWS)
    assert sorted(server.get("/workflow_templates")["personalized-diffusion"]) == WORKFLOWS
    for name in WORKFLOWS:
        path = f"/api/workflow_templates/personalized-diffusion/{urllib.parse.quote(name)}.json"
        assert server.get(path) == server.workflow(name)


def test_a_prompt_with_an_old_id_runs(server, store):
    """As a script sends it: what may be left out is, and what is connected stays so."""
    size = {"width": 64, "height": 64, "batch_size": 1}
    red, blue = ({"class_type": "EmptyImage", "inputs": {**size, "color": colour}} for colour in (0xC00000, 0x0000C0))
    asked = {"images": ["1", 0], "other_images": ["2", 0], "person": "Old Id"}
    run = server.run({"1": red, "2": blue, "3": {"class_type": "PreferenceCollector", "inputs": asked}})
    assert run["outputs"]["3"]["text"] == ["Old Id: questions open 1, answered 0."]
    store.delete_person(store.person_called("Old Id").id)


@pytest.mark.parametrize("name", POCKET)
def test_every_workflow_runs_and_yields_pictures(server, graphs, name):
    prompt = server.prompt(name)
    for entry in prompt.values():
        if entry["class_type"] == "PPD_TestPrompts":  # three of the two dozen
            entry["inputs"]["prompts"] = "\n".join(entry["inputs"]["prompts"].splitlines()[:3])
    pictures = server.pictures(server.run(prompt))
    assert set(pictures) == set(graphs.nodes_of(prompt, "SaveImage"))
    for picture in pictures.values():
        assert picture.shape == (5 if name == TURNED else 1, 384, 384, 3)
        assert picture.std() > 10, "a picture is one flat colour"
    flat = [one.tobytes() for picture in pictures.values() for one in picture]
    assert len(set(flat)) == len(flat), "two of the pictures are the same"


def test_mine_or_in_words_asks_of_three_ways_that_differ(server, graphs):
    """By the average person, who has picked nothing; of three prompts, in few steps."""
    prompt = graphs.set_inputs(server.prompt(WORDED), "KSampler", steps=4)
    (prompts,), (blind,) = graphs.nodes_of(prompt, "PPD_TestPrompts"), graphs.nodes_of(prompt, "PPD_BlindTest")
    prompt[prompts]["inputs"]["prompts"] = "\n".join(prompt[prompts]["inputs"]["prompts"].splitlines()[:3])
    entry = server.run(prompt)
    assert "“plain model”, “my taste”, “my taste in words”" in entry["outputs"][blind]["text"][0]
    (made,) = entry["outputs"][blind]["ppd_blind_test"]
    trials = TasteStore(server.base / "user" / "__ppd" / "taste").test(made["id"]).trials
    new = [one for one in trials if one.repeats is None]
    assert len(new) == 9 and len({digest for one in new for digest in one.pictures}) == 9


@pytest.mark.parametrize("title", ["SD1.5", "SDXL"])
def test_what_the_note_says_of_other_checkpoints(server, title):
    """The same graph with other loaders: each node has its counterpart by id, and all links are the same."""
    exchanged = {"PPD_PocketCheckpointLoader": "CheckpointLoaderSimple", "PPD_UserAdapterLoader": "PPD_IPAdapterLoader"}
    ours, theirs = server.prompt(LEARN), server.prompt(f"{LEARN} with {title}")
    assert f"*{LEARN} with SD1.5* and *... with SDXL*" in json.dumps(server.workflow(LEARN))
    for node, entry in ours.items():
        other = theirs.pop(node)
        assert other["class_type"] == exchanged.get(entry["class_type"], entry["class_type"])
        links = {key: value for key, value in other["inputs"].items() if isinstance(value, list)}
        links.pop("clip_vision", None)
        assert links == {key: value for key, value in entry["inputs"].items() if isinstance(value, list)}
    assert [entry["class_type"] for entry in theirs.values()] == ["CLIPVisionLoader"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_links_and_groups_of_a_workflow_hold_together(server, name):
    """What the frontend would repair silently, or not: slots and links name each other, one seed for all samplers."""
    workflow = server.workflow(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, slot, target, entry, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][slot]["links"] and nodes[source]["outputs"][slot]["type"] == kind
        assert nodes[target]["inputs"][entry]["link"] == link
    ids = [link[0] for link in workflow["links"]]
    assert len(set(ids)) == len(ids) and workflow["last_link_id"] == max(ids)
    prompt = server.prompt(name)
    assert any(node["type"] == "MarkdownNote" for node in nodes.values()) and workflow["groups"]
    if name in (STUDIES, BEST, TRAIN, TURNED, BLIND, WORDED) or name.startswith(
        MINE
    ):  # which compare no two samplers' pictures
        return
    samplers = [entry["inputs"] for entry in prompt.values() if "sampler_name" in entry["inputs"]]
    assert len(samplers) >= 2
    same = {"model", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative", "latent_image"}
    same -= {"positive"} if name == WORDS else set()
    for inputs in samplers[1:]:
        assert {key: inputs[key] for key in same} == {key: samplers[0][key] for key in same}
    seeds = [str(inputs["seed"]) for inputs in samplers if isinstance(inputs["seed"], list)]
    assert len(seeds) >= 2 and len(set(seeds)) == 1


def base_and_personal(prompt, graphs):
    """The nodes that save the two pictures of the first workflow, followed up from their samplers."""

    def saver(source):
        while prompt[source]["class_type"] != "SaveImage":
            source = next(
                node
                for node, entry in prompt.items()
                if [source, 0] in entry["inputs"].values() and entry["class_type"] != "PreviewAny"
            )
        return source

    (plain,), (personal,) = graphs.nodes_of(prompt, "KSampler"), graphs.nodes_of(prompt, "PersonalizedDenoiser")
    return saver(plain), saver(personal)


def savers_by_prefix(prompt, graphs):
    return {prompt[node]["inputs"]["filename_prefix"]: node for node in graphs.nodes_of(prompt, "SaveImage")}


def at_its_own_size(prompt, graphs, batch=BATCH):
    """A graph that saves a batch of pictures as the autoencoder gives them."""
    prompt = graphs.set_inputs(prompt, "EmptyLatentImage", batch_size=batch)
    return graphs.set_inputs(prompt, "ImageScaleBy", scale_by=1.0)


def statistics_of(pictures):
    """Of pictures [n, 128, 128, 3] uint8 of pocket flow."""
    from ppd.pocket.world import POCKET_FLOW

    return POCKET_FLOW.statistics(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)


def rewards(pictures, person):
    """What an example person thinks of pictures [n, 128, 128, 3] uint8: one number each, of unit standard deviation."""
    from safetensors.torch import load_file

    from ppd.pocket.statistics import STATISTICS, Whitening, reward_statistics
    from ppd.pocket.world import POCKET_FLOW

    units = load_file(POCKET_FLOW.file(ROOT / "weights", "world"))
    taste = json.loads((ROOT / "weights" / "examples" / person / "taste.json").read_text(encoding="utf-8"))["weights"]
    statistics = reward_statistics(Whitening(units["mean"], units["matrix"]), statistics_of(pictures))
    return statistics @ torch.tensor([taste[name] for name in STATISTICS])


@pytest.mark.parametrize("person", [DARK, PALE])
def test_the_personal_picture_moves_the_persons_way(server, graphs, person):
    prompt = at_its_own_size(server.prompt(FIRST), graphs)
    prompt = graphs.set_inputs(prompt, "PreferencePairLoader", preference_set=f"example: {person}")
    pictures = server.pictures(server.run(prompt))
    base, personal = (rewards(pictures[node], person) for node in base_and_personal(prompt, graphs))
    assert len(base) == len(personal) == BATCH
    assert (personal - base).mean() > 0.2, f"{person}: {base.tolist()} to {personal.tolist()}"


@pytest.mark.parametrize(("checkpoint", "least"), [("pocket flow", 0.2), ("pocket flow turbo", 0.05)])
def test_words_and_a_person_move_pocket_flow(server, graphs, checkpoint, least):
    """On its turbo too, by the same adapter, without guidance to go further by."""
    from ppd.pocket.statistics import STATISTICS

    prompt = at_its_own_size(server.prompt(WORDS), graphs)
    prompt = graphs.set_inputs(prompt, "PPD_PocketCheckpointLoader", checkpoint=checkpoint)
    for sampler in ("KSampler", "PersonalizedDenoiser") if "turbo" in checkpoint else ():
        prompt = graphs.set_inputs(prompt, sampler, steps=4, cfg=1.0)
    pictures, savers = server.pictures(server.run(prompt)), savers_by_prefix(prompt, graphs)
    alone, named, personal = (
        pictures[savers[f"words/{name}"]] for name in ("the prompt alone", "with words", "for one person")
    )
    further = statistics_of(named) - statistics_of(alone)
    assert (further[:, STATISTICS.index("warmth")] > 0).all()  # by the word "warm"
    person = (rewards(pictures, PALE) for pictures in (personal, alone))
    assert (next(person) - next(person)).mean() > least


def test_the_blend_lies_between(server, graphs):
    prompt = at_its_own_size(server.prompt(BLEND), graphs)
    pictures, savers = server.pictures(server.run(prompt)), savers_by_prefix(prompt, graphs)
    first, blend, second = (
        (rewards(pictures[savers[name]], DARK) - rewards(pictures[savers[name]], PALE)).mean()
        for name in ("personal/person a", "personal/blend", "personal/person b")
    )
    assert first > blend > second


def test_more_strength_goes_further(server, graphs):
    prompt = at_its_own_size(server.prompt(SWEEP), graphs)
    pictures, savers = server.pictures(server.run(prompt)), savers_by_prefix(prompt, graphs)
    none, half, full = (
        rewards(pictures[savers[f"personal/strength {strength}"]], DARK).mean() for strength in ("0", "0.5", "1")
    )
    assert none < half < full


def test_strength_0_is_the_ksamplers_picture(server, graphs):
    prompt = graphs.set_inputs(server.prompt(FIRST), "PersonalizedDenoiser", strength=0.0)
    entry = server.run(prompt)
    base, personal = (server.pictures(entry)[node] for node in base_and_personal(prompt, graphs))
    assert np.array_equal(base, personal)
    reports = [output["text"][0] for output in entry["outputs"].values() if "Personalization" in str(output)]
    assert reports and all(text.startswith("Personalization is off: strength is 0.") for text in reports)


def test_an_api_prompt_needs_to_know_no_input_of_ours_that_has_a_default(server, graphs):
    """Such as a KSampler whose class was changed; and with nothing at all it paints by the defaults."""
    prompt = server.prompt(FIRST)
    (node,) = graphs.nodes_of(prompt, "PersonalizedDenoiser")
    inputs = prompt[node]["inputs"]
    stock = (
        "model",
        "seed",
        "steps",
        "cfg",
        "sampler_name",
        "scheduler",
        "positive",
        "negative",
        "latent_image",
        "denoise",
    )
    needed = ("model", "positive", "negative", "latent_image")
    for names in (stock, needed):
        prompt[node]["inputs"] = {name: inputs[name] for name in names if name in inputs}
        assert len(server.pictures(server.run(prompt))) >= 1


def test_running_again_stacks_nothing(server, graphs):
    """Model, adapter and embedding come from the cache, the samplers run anew; the pictures stay what they were."""
    prompt = server.prompt(FIRST)
    base, personal = base_and_personal(prompt, graphs)
    first = server.pictures(server.run(prompt))
    assert not np.array_equal(first[base], first[personal])
    for _ in range(2):
        same = str(max(map(int, prompt)) + 1)  # another way to the same latent, which the cache does not see through
        for class_type in ("KSampler", "PersonalizedDenoiser"):
            latent = prompt[graphs.nodes_of(prompt, class_type)[0]]["inputs"]["latent_image"]
            prompt = graphs.set_inputs(prompt, class_type, latent_image=[same, 0])
        prompt[same] = {
            "class_type": "LatentFromBatch",
            "inputs": {"samples": latent, "batch_index": 0, "length": 1},
        }
        entry = server.run(prompt)
        for class_type in ("PPD_PocketCheckpointLoader", "PPD_UserAdapterLoader", "UserEmbeddingEncoder"):
            assert set(graphs.nodes_of(prompt, class_type)) <= entry["cached"]
        for class_type in ("KSampler", "PersonalizedDenoiser"):
            assert not set(graphs.nodes_of(prompt, class_type)) & entry["cached"]
        again = server.pictures(entry)
        assert all(np.array_equal(again[node], first[node]) for node in (base, personal))


def test_previews_arrive_while_it_paints(server, graphs):
    prompt = graphs.set_inputs(server.prompt(FIRST), "PrimitiveInt", value=1)
    run = server.watch(prompt)
    (sampler,) = graphs.nodes_of(prompt, "PersonalizedDenoiser")
    frames = [frame for node, frame in run.previews if node == sampler]
    assert len(frames) >= 2, "no preview frames while the personal sampler ran"
    assert all(frame.size == frames[0].size and np.asarray(frame).std() > 5 for frame in frames)
    steps = [data for data in run.of_type("progress") if data["node"] == sampler]
    assert steps[-1]["value"] == steps[-1]["max"] == prompt[sampler]["inputs"]["steps"]


def test_interrupt_stops_a_long_run_at_once_and_the_server_goes_on(server, graphs):
    prompt = graphs.set_inputs(server.prompt(FIRST), "PersonalizedDenoiser", steps=5000)
    (sampler,) = graphs.nodes_of(prompt, "PersonalizedDenoiser")
    run = server.watch(
        prompt,
        interrupt_when=lambda run: any(
            data["node"] == sampler and data["value"] >= 2 for data in run.of_type("progress")
        ),
    )
    assert [data["node_id"] for data in run.of_type("execution_interrupted")] == [sampler]
    assert run.interrupted_after < 2
    prompt = graphs.set_inputs(server.prompt(FIRST), "PrimitiveInt", value=2)
    assert len(server.pictures(server.run(prompt))) == 2
