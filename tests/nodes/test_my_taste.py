"""My Taste: one node from a model to a personal one, whatever is there, and a sentence for what is not."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ppd.families import FAMILIES
from ppd.pictures import Picture

pytestmark = pytest.mark.comfyui


@pytest.fixture
def store(comfy_folders):
    return comfy_folders.module.taste_store()


def pick(store, person, count):
    """Picks of random pictures, each with its own seed."""
    generator = np.random.default_rng(count)
    for number in range(count):
        pictures = [
            Picture.from_image(Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)))
            for _ in range(2)
        ]
        store.pick(store.add_candidate(person, "a lake", *pictures), "first", f"{person} {count} {number}")


@pytest.fixture
def sampler(run):
    """The stock KSampler's settings with the pocket model."""
    import nodes

    model, clip, _ = run("PPD_PocketCheckpointLoader", checkpoint="pocket").result
    with torch.inference_mode():
        positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a red boat", ""))
    settings = {"seed": 5, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return {"model": model, "positive": positive, "negative": negative, **settings}


@torch.inference_mode()
def paint(sampler, model):
    import nodes

    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    return nodes.KSampler().sample(**{**sampler, "model": model}, latent_image=latent)[0]["samples"]


def test_it_is_the_chain_of_five_nodes(run, store, sampler):
    person = store.add_person("ann").id
    pick(store, person, 5)
    personal, report = run("PPD_MyTaste", model=sampler["model"], person=person, strength=0.8).result
    pairs = run("PreferencePairLoader", preference_set=f"person: {person}").result[0]
    embedding = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]
    adapter = run("PPD_UserAdapterLoader", user_adapter="pocket").result[0]
    connected = {"user_adapter": adapter, "user_embedding": embedding, "strength": 0.8}
    chain = run("PPD_ApplyUserEmbedding", model=sampler["model"], **connected).result[0]
    assert torch.equal(paint(sampler, personal), paint(sampler, chain))
    assert not torch.equal(paint(sampler, personal), paint(sampler, sampler["model"]))
    assert report == (
        "Paints for ann by 5 picks, at strength 0.8.\nTook the user adapter pocket, and the taste encoder pocket."
    )


def test_nobody_is_the_average_person_and_few_picks_are_weak(run, store, sampler):
    _, report = run("PPD_MyTaste", model=sampler["model"]).result
    assert report.startswith("Paints for the average person, at strength 1. No picks are known yet: answer questions")
    pick(store, store.add_person("me").id, 2)
    assert (
        run("PPD_MyTaste", model=sampler["model"])
        .result[1]
        .startswith("Paints for me by 2 picks, at strength 1. Weak as yet: pick more.")
    )
    with pytest.raises(ValueError, match="nobody called 'bea'"):
        run("PPD_MyTaste", model=sampler["model"], person="bea")


@pytest.fixture
def embeddings(monkeypatch):
    """What My Taste gives to the model, as it comes."""
    module, found = import_module("ppd_pack.nodes.my_taste"), []
    apply = module.apply_user
    monkeypatch.setattr(module, "apply_user", lambda *given: found.append(given[2][0]) or apply(*given))
    return found


@pytest.mark.parametrize("half_life", [None, 2.0])
def test_the_first_answers_make_who_the_person_was_then(run, store, sampler, embeddings, half_life):
    ann, bea = (store.add_person(name).id for name in ("ann", "bea"))
    for person in (ann, bea):
        store.set_half_life(person, half_life)
        pick(store, person, 4)
    pick(store, ann, 5)
    reports = [
        run("PPD_MyTaste", model=sampler["model"], person=person, first_answers=first).result[1]
        for person, first in ((ann, 4), (bea, -1), (ann, 0), (ann, -1))
    ]
    four, of_bea, nobody, everything = (one.u for one in embeddings)
    assert torch.equal(four, of_bea)
    run("PPD_MyTaste", model=sampler["model"], person="me")  # who has not picked
    assert torch.equal(nobody, embeddings[-1].u)
    assert (four - nobody).norm() > 0.1 and (four - everything).norm() > 0.1
    assert [one.splitlines()[0] for one in reports] == [
        "Paints for ann by 4 picks, at strength 1. It counts the first 4 answers only.",
        "Paints for bea by 4 picks, at strength 1.",
        "Paints for the average person, at strength 1. It counts the first 0 answers only.",
        "Paints for ann by 9 picks, at strength 1.",
    ]
    pairs, _, report = run("PreferencePairLoader", preference_set=f"person: {ann}", first_answers=4).result
    assert torch.equal(run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0].u, four)
    assert report.startswith("person: ann, the first 4 answers only: 4 pairs")


def test_a_choice_is_one_of_the_first_answers(run, store):
    person = store.add_person("ann").id
    grey = [Picture.from_image(Image.new("RGB", (16, 16), (shade, shade, shade))) for shade in (10, 60, 110, 160)]
    store.add_candidate(person, "a lake", grey[0], grey[1])
    store.add_candidate(person, "a lake", grey[2], grey[3])
    store.choose(person, "a lake", [one.digest for one in grey], grey[2].digest, "best of four")
    pick(store, person, 2)
    counts = [
        len(run("PreferencePairLoader", preference_set=f"person: {person}", first_answers=first).result[0])
        for first in (0, 1, 2, 3, 7, -1)
    ]
    assert counts == [0, 3, 4, 5, 5, 5]


def test_a_file_and_a_set_have_no_first_answers(run, store, sampler, comfy_folders):
    pairs = run("PreferencePairLoader", preference_set="example: warm").result[0]
    embedding = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]
    run("PPD_UserEmbeddingSave", user_embedding=embedding, filename_prefix="foggy", overwrite=True)
    for node, whose in (
        ("PPD_MyTaste", {"model": sampler["model"], "person": "taste: foggy.safetensors"}),
        ("PreferencePairLoader", {"preference_set": "example: warm"}),
    ):
        with pytest.raises(ValueError, match="first_answers is 5, but .* is no person of the tab Taste: choose one"):
            run(node, **whose, first_answers=5)


def test_off_is_the_model_itself(run, store, sampler):
    personal, report = run("PPD_MyTaste", model=sampler["model"], strength=0.0).result
    assert torch.equal(paint(sampler, personal), paint(sampler, sampler["model"]))
    assert report == "The plain picture: strength is 0."


def test_a_taste_file_is_a_person_too(run, node_classes, store, sampler, comfy_folders):
    person = store.add_person("ann").id
    pick(store, person, 4)
    pairs = run("PreferencePairLoader", preference_set=f"person: {person}").result[0]
    embedding = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]
    run("PPD_UserEmbeddingSave", user_embedding=embedding, filename_prefix="foggy", overwrite=True)
    node, choice = node_classes["PPD_MyTaste"], "taste: foggy.safetensors"
    (entry,) = (one for one in node.GET_SCHEMA().inputs if one.id == "person")
    assert entry.options[:2] == ["tab", "me"] and {choice, person} <= set(entry.options)
    of_file, report = run("PPD_MyTaste", model=sampler["model"], person=choice).result
    of_picks = run("PPD_MyTaste", model=sampler["model"], person=person).result[0]
    assert torch.equal(paint(sampler, of_file), paint(sampler, of_picks))
    assert report.startswith("Paints for foggy by 4 picks")
    assert node.validate_inputs(person=choice) is True
    for wrong in ("taste: ../x.safetensors", "taste: gone.safetensors"):
        assert "There is no taste file" in node.validate_inputs(person=wrong)


def test_the_cache_asks_picks_and_files(run, node_classes, store, comfy_folders):
    node, person = node_classes["PPD_MyTaste"], store.add_person("ann").id
    first = node.fingerprint_inputs(person=person)
    assert node.fingerprint_inputs(person=person, strength=2.0) == first
    pick(store, person, 1)
    second = node.fingerprint_inputs(person=person)
    (comfy_folders.models / "clip_vision").mkdir()
    (comfy_folders.models / "clip_vision" / "new.safetensors").write_bytes(b"")
    import folder_paths

    folder_paths.filename_list_cache.clear()
    assert len({first, second, node.fingerprint_inputs(person=person)}) == 3


def test_an_adapter_of_another_encoder_is_told_and_one_of_the_users_is_found(run, sampler, comfy_folders, monkeypatch):
    """The shipped one reads by another encoder then; a file of models/user_adapters by the person's."""
    from ppd.adapters import CrossAttentionAdapter, CrossAttentionConfig, UserAdapter

    adapter = UserAdapter.load(comfy_folders.weights / "adapters" / "pocket.safetensors")
    folders, folder = comfy_folders.module, comfy_folders.models / "user_adapters"
    other = CrossAttentionAdapter(
        CrossAttentionConfig(**{**vars(adapter.config), "encoder_hash": "0" * 64, "encoder": "vlm"})
    )
    other.save(folder / "a.safetensors")
    my_taste = import_module("ppd_pack.nodes.my_taste")
    monkeypatch.setattr(my_taste, "adapters", lambda: ["a.safetensors"])
    personal, report = run("PPD_MyTaste", model=sampler["model"]).result
    assert personal is sampler["model"]
    assert report.splitlines()[0] == (
        "The plain picture: the user adapter a.safetensors fits this model, but reads people by the taste encoder "
        "vlm, and me is read by pocket: choose the other one in the tab Taste, under More."
    )
    adapter.save(folder / "b.safetensors")
    (folder / "c.safetensors").write_bytes(b"broken")
    monkeypatch.setattr(my_taste, "adapters", lambda: ["a.safetensors", "b.safetensors", "c.safetensors"])
    assert "Took the user adapter b.safetensors," in run("PPD_MyTaste", model=sampler["model"]).result[1]
    assert folders.model_file("user_adapters", "b.safetensors").is_file()


def test_a_plain_picture_is_told_at_the_node_till_it_is_personal(node_classes, sampler, monkeypatch):
    """The report alone would stand nowhere unless something shows it."""
    from comfy_api.latest import io

    my_taste, notes = (import_module(f"ppd_pack.nodes.{name}") for name in ("my_taste", "run_notes"))
    sent = []
    server = SimpleNamespace(instance=SimpleNamespace(send_progress_text=lambda text, node: sent.append((node, text))))
    monkeypatch.setattr(notes, "PromptServer", server)
    node = node_classes["PPD_MyTaste"].PREPARE_CLASS_CLONE(None)
    node.hidden = io.HiddenHolder.from_dict({io.Hidden.unique_id: "7"})
    everything = my_taste.adapters
    monkeypatch.setattr(my_taste, "adapters", list)
    node.execute(model=sampler["model"])
    assert [one for one, _ in sent] == ["7"] and sent[0][1].startswith("The plain picture: no adapter here paints")
    monkeypatch.setattr(my_taste, "adapters", everything)
    node.execute(model=sampler["model"])
    assert len(sent) == 1
    for _ in range(2):
        notes.show("7", "Personal were 4 of 4 calls", False)  # as after a run
    assert sent[1:] == [("7", "Personal were 4 of 4 calls")]


def unet(kind, **more):
    """A MODEL of a family at the narrowest width, without weights."""
    import comfy.model_patcher

    from benchmarks.random_models import unet_model

    return comfy.model_patcher.ModelPatcher(unet_model(kind, **more), torch.device("cpu"), torch.device("cpu"))


@pytest.fixture
def sd15():
    return unet("SD15", depths=(1, 1, 1, 0), context=768, linear=False)


def test_what_an_sd15_model_lacks_is_told_with_where_to_put_it(run, sd15, comfy_folders, ip_adapter_file, monkeypatch):
    import folder_paths
    from safetensors.torch import save_file

    ours = run("PPD_MyTaste", model=sd15).result
    assert ours[0] is sd15 and ours[1].splitlines()[0] == (
        "The plain picture: for SD1.5 an IP-Adapter and its image encoder are needed. Put ip-adapter_sd15.safetensors "
        "in models/ipadapter and CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors in models/clip_vision."
    )
    for name in ("ipadapter", "clip_vision"):
        (comfy_folders.models / name).mkdir()
    wide = ip_adapter_file("plain", [640] * 16, 768)
    wide.rename(comfy_folders.models / "ipadapter" / "a wide.safetensors")
    right = ip_adapter_file("plus", [320] * FAMILIES["sd15"].count, 768)
    right.rename(comfy_folders.models / "ipadapter" / "b.safetensors")
    save_file({"x": torch.zeros(2)}, comfy_folders.models / "clip_vision" / "a other.safetensors")
    folder_paths.filename_list_cache.clear()
    assert (
        "Put CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors in models/clip_vision."
        in run("PPD_MyTaste", model=sd15).result[1]
    )
    patches = {"vision_model.embeddings.patch_embedding.weight": torch.zeros(1280, 3, 1, 1)}
    save_file(patches, comfy_folders.models / "clip_vision" / "eyes.safetensors")
    folder_paths.filename_list_cache.clear()
    monkeypatch.setattr(folder_paths, "output_directory", str(comfy_folders.output))
    report = run("PPD_MyTaste", model=sd15).result[1]
    assert report.startswith("The plain picture: an IP-Adapter is fitted to 32 pictures or more of this model's, and ")


def test_a_model_that_no_adapter_serves_is_not_sent_after_what_does_not_exist(run, comfy_folders):
    sd2 = unet("SD20", depths=(1, 1, 1, 0), context=1024)
    personal, report = run("PPD_MyTaste", model=sd2).result
    assert personal is sd2
    assert report == (
        "The plain picture: no adapter here paints for a person with SD2. Sort by Taste works with every model.\n"
        "With the CLIP connected, prompts lean without an adapter."
    )


def test_where_no_adapter_is_the_words_act_if_they_can(run, store, sampler, comfy_folders, monkeypatch):
    """Here no adapter is left for the pocket model, whose random CLIP is made to know all words."""
    clip = run("PPD_PocketCheckpointLoader", checkpoint="pocket").result[1]
    person = store.add_person("ann").id
    pick(store, person, 5)
    monkeypatch.setattr("ppd_pack.nodes.my_taste.adapters", list)
    given = {"model": sampler["model"], "person": person, "clip": clip}
    personal, report = run("PPD_MyTaste", **given).result
    assert personal is sampler["model"]
    assert report.startswith("The prompt is as it is: this model's CLIP does not know the words (")
    clip = run("PPD_PocketCheckpointLoader", checkpoint="pocket").result[1]
    words = clip.cond_stage_model.clip_l.transformer.text_model.embeddings.token_embedding.weight
    with torch.inference_mode():
        words.copy_(torch.randn(words.shape, generator=torch.Generator().manual_seed(0)))
    personal, report = run("PPD_MyTaste", **{**given, "clip": clip}).result
    first, second = report.splitlines()
    assert first.startswith("Leans to ") and first.endswith(", for ann by 5 picks, at strength 1.")
    assert second.startswith("Words alone: no adapter here paints for a person with the pocket model.")
    embedding = whose_embedding(run, person)
    words = run("PPD_ApplyTasteToConditioning", model=sampler["model"], clip=clip, user_embedding=embedding).result[0]
    assert torch.equal(paint(sampler, personal), paint(sampler, words))
    monkeypatch.setattr("ppd_pack.ppd.hosts.comfyui_text.TEXTS", {})
    personal, report = run("PPD_MyTaste", **given).result
    assert personal is sampler["model"] and report.startswith("The plain picture: no adapter here paints")
    assert "put the words that Taste to Text gives into the prompt" in report


def whose_embedding(run, person):
    pairs = run("PreferencePairLoader", preference_set=f"person: {person}").result[0]
    return run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]
