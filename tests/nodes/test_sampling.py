"""Painting for a person in ComfyUI's graph: pocket checkpoint, adapter, Apply User Embedding, Personalized Denoiser."""

from __future__ import annotations

import inspect
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.comfyui


@pytest.fixture
def graph(run):
    """The values that flow into a sampler: pocket model, prompts, adapter and the two example people."""
    import nodes

    model, clip, vae = run("PPD_PocketCheckpointLoader", checkpoint="pocket").result
    with torch.inference_mode():
        positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a red boat", ""))
    people = []
    for name in ("warm", "calm"):
        pairs = run("PreferencePairLoader", preference_set=f"example: {name}").result[0]
        people.append(run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0])
    settings = {"seed": 5, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    sampler = {"model": model, "positive": positive, "negative": negative, **settings}
    adapter = run("PPD_UserAdapterLoader", user_adapter="pocket").result[0]
    return sampler, adapter, people, clip, vae


def empty(count=1):
    return {"samples": torch.zeros(count, 4, 16, 16)}


@torch.inference_mode()
def plain(sampler, latent):
    import nodes

    return nodes.KSampler().sample(**sampler, latent_image=latent)[0]["samples"]


def test_its_inputs_begin_as_the_ksamplers(node_classes, comfy_folders):
    import nodes

    ours = [entry.id for entry in node_classes["PersonalizedDenoiser"].GET_SCHEMA().inputs]
    theirs = nodes.KSampler.INPUT_TYPES()["required"]
    assert ours[: len(theirs)] == list(theirs)
    assert ours[len(theirs) :] == [
        "user_adapter",
        "user_embedding",
        "strength",
        "layers",
        "start_percent",
        "end_percent",
        "clip",
        "words_strength",
    ]
    inputs = node_classes["PersonalizedDenoiser"].INPUT_TYPES()
    mine = {**inputs["required"], **inputs["optional"]}
    for name, (kind, options) in theirs.items():
        assert mine[name][0] in (kind, "COMBO")
        if "default" in options or isinstance(kind, list):  # a list's default is its first
            assert mine[name][1]["default"] == options.get("default", kind[0])


def test_with_nothing_connected_it_is_the_ksampler(run, graph):
    sampler = graph[0]
    latent, report = run("PersonalizedDenoiser", **sampler, latent_image=empty(2)).result
    assert torch.equal(latent["samples"], plain(sampler, empty(2)))
    assert report == "Personalization is off: nothing is connected."


def test_it_passes_masks_batches_and_denoise_on_as_the_ksampler(run, graph):
    sampler = {**graph[0], "denoise": 0.6}
    latent = {
        "samples": torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)),
        "noise_mask": torch.zeros(1, 1, 16, 16),
        "batch_index": [4, 1],
    }
    found = run("PersonalizedDenoiser", **sampler, latent_image=latent).result[0]
    assert torch.equal(found["samples"], plain(sampler, latent))
    assert found["batch_index"] == [4, 1]


def test_it_paints_for_the_person_and_says_so(run, graph):
    sampler, adapter, people, _, _ = graph
    connected = {"user_adapter": adapter, "latent_image": empty(), **sampler}
    latent, report = run("PersonalizedDenoiser", **connected, user_embedding=people[0]).result
    other = run("PersonalizedDenoiser", **connected, user_embedding=people[1]).result[0]
    base = plain(sampler, empty())
    assert not torch.allclose(latent["samples"], base, atol=1e-2)
    assert not torch.allclose(latent["samples"], other["samples"], atol=1e-3)
    assert report.startswith("Paints for 4 picks at strength 1.\n(7 of 7 cross-attention layers; ")
    assert "strength times cfg 3 = 3" in report
    off, report = run("PersonalizedDenoiser", **connected, user_embedding=people[0], strength=0.0).result
    assert torch.equal(off["samples"], base) and report == "Personalization is off: strength is 0."
    again = run("PersonalizedDenoiser", **connected, user_embedding=people[0]).result[0]
    assert torch.equal(again["samples"], latent["samples"])


def windowed(adapter, end_percent):
    """The adapter with a window of its own from the start of the noise schedule."""
    adapter.model.config = replace(adapter.model.config, end_percent=end_percent)
    return adapter


@pytest.mark.parametrize(
    ("own_end", "denoise", "end_percent", "acts"),
    [(0.5, 0.3, 1.0, "0% to 50%"), (1.0, 0.6, 0.2, "0% to 20%")],
)
def test_where_no_step_was_personal_the_report_begins_with_that(run, graph, own_end, denoise, end_percent, acts):
    sampler, adapter, people, _, _ = graph
    sampler = {**sampler, "steps": 6, "denoise": denoise}
    latent = {"samples": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))}
    connected = {"user_adapter": windowed(adapter, own_end), "user_embedding": people[0], "end_percent": end_percent}
    found, report = run("PersonalizedDenoiser", **sampler, **connected, latent_image=latent).result
    assert torch.equal(found["samples"], plain(sampler, latent))
    assert report == (
        "This is the plain picture. No step was personal: raise denoise or end_percent. The person acts from "
        f"{acts} of the noise schedule."
    )


def test_the_report_counts_what_was_personal(run, graph):
    sampler, adapter, people, _, _ = graph
    connected = {"user_adapter": windowed(adapter, 0.5), "user_embedding": people[0], "latent_image": empty()}
    report = run("PersonalizedDenoiser", **{**sampler, "steps": 6}, **connected).result[1]
    assert report.startswith("Paints for 4 picks at strength 1.\n(7 of 7 ")
    assert report.splitlines()[-1] == "Personal were 3 of 6 calls of the model, in 7 of 7 cross-attention layers."


def test_what_came_of_a_model_is_told_to_its_node_after_the_run(graph, node_classes, monkeypatch):
    """Where no sampling with it was personal, as text at the node and to nodes that show pictures, till one is."""
    from comfy_api.latest import io

    notes, sent = import_module("ppd_pack.nodes.run_notes"), []
    server = SimpleNamespace(instance=SimpleNamespace(send_progress_text=lambda text, node: sent.append((node, text))))
    monkeypatch.setattr(notes, "PromptServer", server)
    notes._newest.clear()
    sampler, adapter, people, _, _ = graph
    connected = {"user_adapter": windowed(adapter, 0.5), "user_embedding": people[0], "model": sampler["model"]}
    node = node_classes["PPD_ApplyUserEmbedding"].PREPARE_CLASS_CLONE(None)
    node.hidden = io.HiddenHolder.from_dict({io.Hidden.unique_id: "12:3"})
    personal = node.execute(**connected).result[0]
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    plain({**sampler, "model": personal, "steps": 6, "denoise": 0.3}, latent)
    assert [node for node, _ in sent] == ["12:3"] and sent[0][1].startswith("No step was personal: ")
    assert notes.of_this_run() == [sent[0][1]]
    plain({**sampler, "model": personal, "steps": 6}, latent)
    assert sent[1] == ("12:3", "Personal were 3 of 12 calls of the model, in 7 of 7 cross-attention layers.")
    assert notes.of_this_run() == []
    plain({**sampler, "model": personal, "steps": 6}, latent)
    assert len(sent) == 2  # the node is as large as it needs to be


def test_applying_to_the_model_is_the_same_run(run, graph):
    sampler, adapter, people, _, _ = graph
    connected = {"user_adapter": adapter, "user_embedding": people[0], "strength": 0.7}
    latent = run("PersonalizedDenoiser", **sampler, **connected, latent_image=empty()).result[0]
    personal, report = run("PPD_ApplyUserEmbedding", model=sampler["model"], **connected).result
    assert torch.equal(plain({**sampler, "model": personal}, empty()), latent["samples"])
    assert report.startswith("Paints for 4 picks at strength 0.7.\n")
    assert not torch.equal(plain(sampler, empty()), latent["samples"])


def test_several_people(run, graph):
    sampler, adapter, people, _, _ = graph
    batch = run("PPD_UserEmbeddingBatch", people={"person_0": people[0], "person_1": people[1]}).result[0]
    connected = {**sampler, "user_adapter": adapter, "user_embedding": batch}
    latent, report = run("PersonalizedDenoiser", **connected, latent_image=empty(3)).result
    assert "There are 2 people for 3 latents: the last person gets the last 2." in report
    assert report.startswith("Paints for 2 people, of 4 picks and 4 picks, at strength 1.\n")
    for row, person in enumerate((people[0], people[1], people[1])):
        alone = {**connected, "user_embedding": person}
        expected = run("PersonalizedDenoiser", **alone, latent_image=empty(3)).result[0]
        torch.testing.assert_close(latent["samples"][row], expected["samples"][row], rtol=1e-4, atol=1e-4)


def test_half_a_connection_paints_plain_and_says_so(run, graph):
    sampler, adapter, people, _, _ = graph
    base = plain(sampler, empty())
    for connected, lacks in (({"user_adapter": adapter}, "embedding"), ({"user_embedding": people[0]}, "adapter")):
        latent, report = run("PersonalizedDenoiser", **sampler, latent_image=empty(), **connected).result
        assert torch.equal(latent["samples"], base)
        assert report.startswith("Personalization is off: ") and report.endswith(f"connected, but no user {lacks}.")
        personal, told = run("PPD_ApplyUserEmbedding", model=sampler["model"], **connected).result
        assert personal is sampler["model"] and told == report


def test_a_latent_whose_person_is_bypassed_is_plain(run, graph):
    sampler, adapter, people, _, _ = graph
    batch = run("PPD_UserEmbeddingBatch", people={"person_0": None, "person_1": people[1]}).result[0]
    connected = {**sampler, "user_adapter": adapter, "user_embedding": batch}
    latent = run("PersonalizedDenoiser", **connected, latent_image=empty(2)).result[0]
    base = plain(sampler, empty(2))
    torch.testing.assert_close(latent["samples"][0], base[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(latent["samples"][1], base[1], atol=1e-3)
    assert run("PPD_UserEmbeddingBatch", people={"person_0": None}).result[0] is None


def test_words_the_model_does_not_know_are_in_the_report(run, graph):
    import nodes

    sampler, _, _, clip, _ = graph
    with torch.inference_mode():
        positive = nodes.CLIPTextEncode().encode(clip, "a steampunk, boat !")[0]
    report = run("PersonalizedDenoiser", **{**sampler, "positive": positive}, latent_image=empty()).result[1]
    assert "The model does not know these words of the positive prompt: steampunk." in report


def test_a_latent_too_large_for_the_pocket_is_in_the_report(run, graph):
    sampler = graph[0]
    for side, told in ((16, False), (64, True)):
        latent = {"samples": torch.zeros(1, 4, side, side)}
        report = run("PersonalizedDenoiser", **{**sampler, "steps": 1}, latent_image=latent).result[1]
        assert ("cannot compose 512: use 128" in report) == told


def test_adapters_of_the_user_are_listed_and_loaded(run, node_classes, comfy_folders):
    folder = comfy_folders.models / "user_adapters"
    folder.mkdir()
    (folder / "mine.safetensors").write_bytes((comfy_folders.weights / "adapters" / "pocket.safetensors").read_bytes())
    node = node_classes["PPD_UserAdapterLoader"]
    assert node.GET_SCHEMA().inputs[0].options == ["pocket", "mine.safetensors"]
    assert node.fingerprint_inputs(user_adapter="mine.safetensors") == node.fingerprint_inputs(user_adapter="pocket")
    loaded, shipped = (run("PPD_UserAdapterLoader", user_adapter=n).result[0] for n in ("mine.safetensors", "pocket"))
    assert loaded.model.config == shipped.model.config
    (comfy_folders.models / "secret.safetensors").write_bytes((folder / "mine.safetensors").read_bytes())
    with pytest.raises(FileNotFoundError):
        run("PPD_UserAdapterLoader", user_adapter="../secret.safetensors")
    with pytest.raises(ValueError, match="The pack has no"):
        run("PPD_UserAdapterLoader", user_adapter="../../secret")
    other = comfy_folders.weights / "taste_encoders" / "pocket" / "encoder.safetensors"
    (folder / "mine.safetensors").write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match="mine.safetensors is no user adapter: expected format"):
        run("PPD_UserAdapterLoader", user_adapter="mine.safetensors")


def test_widget_names_are_the_arguments(node_classes, comfy_folders):
    for node in node_classes.values():
        names = [entry.id for entry in node.GET_SCHEMA().inputs]
        assert set(inspect.signature(node.execute).parameters) == set(names)
