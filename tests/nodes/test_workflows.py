"""The templates for today's models run node by node, on their real classes at a tiny size.

What the loaders would give is put in their place: a MODEL of the class with random weights, and the CLIP of the pocket
model, whose tokens are as wide as the MODEL was built for. No picture is decoded.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from ppd.adapters import LowRankAdapter, LowRankConfig

from ..hosts.tiny_models import TINY, build
from .test_my_taste import pick
from .test_words import know_all_words

if find_spec("comfy"):
    from ppd.hosts.comfyui_denoisers import linear_sites, low_rank_family

pytestmark = pytest.mark.comfyui
WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
TEMPLATES = {"Flux.1": "flux1", "Krea 2": "krea2", "Qwen-Image": "qwen_image", "Z-Image": "z_image"}
WIDTHS = {"flux1": ("context_in_dim", 1), "krea2": ("txtdim", 2), "qwen_image": ("joint_attention_dim", 1)}
WIDTHS |= {"z_image": ("cap_feat_dim", 1)}
"""What a class calls the width of its text tokens, and how many layers of the text encoder lie in one token."""
EXTRAS = ("nodes_flux", "nodes_model_advanced", "nodes_sd3")
SKIPPED = {"MarkdownNote", "PreviewAny", "VAELoader", "VAEDecode", "SaveImage"}


def stock(type_):
    """ComfyUI's node of a type."""
    import nodes

    known = dict(nodes.NODE_CLASS_MAPPINGS)
    for name in EXTRAS:
        module = import_module(f"comfy_extras.{name}")
        known |= {kind.GET_SCHEMA().node_id: kind for kind in vars(module).values() if hasattr(kind, "GET_SCHEMA")}
        known |= getattr(module, "NODE_CLASS_MAPPINGS", {})
    return known[type_]


def call(type_, inputs):
    node = stock(type_)
    if hasattr(node, "GET_SCHEMA"):
        return node.EXECUTE_NORMALIZED(**inputs).result
    return getattr(node(), node.FUNCTION)(**inputs)


def widgets(node):
    """Values by their inputs; the seed has a second one, which the frontend keeps."""
    values = [value for value in node.get("widgets_values", []) if value != "fixed"]
    return dict(zip([entry["name"] for entry in node["inputs"] if "widget" in entry], values, strict=True))


@torch.inference_mode()
def paint(run, template, model, clip, **taste):
    """The template's latent and what My Taste reports, at 64 x 64 pixels and two steps; without a person, the graph
    without My Taste."""
    workflow = json.loads((WORKFLOWS / f"my taste with {template}.json").read_text(encoding="utf-8"))
    given = {link[0]: (link[1], link[2]) for link in workflow["links"]}
    made: dict[int, tuple[Any, ...]] = {}
    report = None
    for node in workflow["nodes"]:
        type_ = node["type"]
        if type_ in SKIPPED:
            continue
        if type_ in ("UNETLoader", "CLIPLoader", "DualCLIPLoader"):
            made[node["id"]] = (model if type_ == "UNETLoader" else clip,)
            continue
        inputs = widgets(node)
        for entry in node["inputs"]:
            if entry["link"] is not None:
                source, slot = given[entry["link"]]
                inputs[entry["name"]] = made[source][slot]
        inputs |= {"width": 64, "height": 64} if "Latent" in type_ else {}
        inputs |= {"steps": 2} if type_ == "KSampler" else {}
        if type_ != "PPD_MyTaste":
            made[node["id"]] = call(type_, inputs)
        elif taste:
            made[node["id"]] = run(type_, **inputs | taste).result
            report = made[node["id"]][1]
        else:
            made[node["id"]] = (model, "")
    (sampler,) = (node["id"] for node in workflow["nodes"] if node["type"] == "KSampler")
    return made[sampler][0]["samples"], report


@pytest.fixture(params=TEMPLATES)
def graph(request, run, monkeypatch):
    """A template's name, its MODEL and CLIP."""
    _, clip, _ = run("PPD_PocketCheckpointLoader", checkpoint="pocket").result
    know_all_words(clip)
    with torch.inference_mode():
        tokens, pooled = clip.encode_from_tokens(clip.tokenize("a boat"), return_pooled=True)
    name = TEMPLATES[request.param]
    key, layers = WIDTHS[name]
    config = TINY[name].config | {key: tokens.shape[-1] // layers}
    config |= {"vec_in_dim": pooled.shape[-1]} if name == "flux1" else {}
    monkeypatch.setitem(TINY, name, replace(TINY[name], config=config))
    return request.param, build(name), clip


@pytest.fixture
def person(comfy_folders):
    store = comfy_folders.module.taste_store()
    found = store.add_person("ann").id
    pick(store, found, 5)
    return found


def test_without_an_adapter_the_prompt_leans_and_strength_0_is_the_plain_picture(run, graph, person):
    plain, _ = paint(run, *graph)
    off, report = paint(run, *graph, person=person, strength=0.0)
    assert torch.equal(off, plain) and report == "The plain picture: strength is 0."
    leaning, report = paint(run, *graph, person=person)
    assert not torch.equal(leaning, plain) and leaning.isfinite().all()
    first, second = report.splitlines()[:2]
    assert first.startswith("Leans to ") and first.endswith(", for ann by 5 picks, at strength 1.")
    assert second.startswith("Words alone: no adapter here paints for a person with ")


def test_a_trained_low_rank_adapter_is_taken_first(run, graph, person, comfy_folders):
    _, model, _ = graph
    encoder = run("PPD_UserAdapterLoader", user_adapter="pocket").result[0].model.config
    config = LowRankConfig(
        family=low_rank_family(model),
        encoder=encoder.encoder,
        encoder_hash=encoder.encoder_hash,
        embedding_dim=encoder.embedding_dim,
        sites=tuple(linear_sites(model.model.diffusion_model)),
        rank=2,
    )
    adapter = LowRankAdapter(config)
    for site in adapter.parts():
        torch.nn.init.normal_(site.up, std=0.1)
    (comfy_folders.models / "user_adapters").mkdir(exist_ok=True)
    adapter.save(comfy_folders.models / "user_adapters" / "mine.safetensors")
    plain, _ = paint(run, *graph)
    personal, report = paint(run, *graph, person=person)
    assert not torch.equal(personal, plain) and personal.isfinite().all()
    assert report.splitlines() == [
        "Paints for ann by 5 picks, at strength 1.",
        "Took the user adapter mine.safetensors, and the taste encoder pocket.",
    ]
