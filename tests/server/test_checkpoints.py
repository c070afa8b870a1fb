"""Every family in the real server: checkpoints as ordinary files, by the stock loaders, into our nodes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ppd.families import FAMILIES
from ppd.pictures import Picture

from .model_files import (
    MODELS,
    widths,
    write_checkpoint,
    write_clip_vision,
    write_person,
    write_stage_c,
    write_text_states,
    write_user_adapter,
)

pytestmark = pytest.mark.comfyui
KINDS = ("user adapter", "IP-Adapter")
PICTURES = "drawn"
"""A folder of datasets that IP-Adapters are fitted to."""
WITH_TEXT_ENCODER = {"sd15"}
"""Families whose text encoder is small enough to run here at its full size; the others' text states are stored."""
TITLES = {"sd15": "SD1.5", "sdxl": "SDXL"}
"""Families with a workflow of their own."""


@dataclass
class Files:
    """A family's files in the server's folders, by the names that the loaders list."""

    checkpoint: str
    text_states: dict[str, str] = field(default_factory=dict)
    """Folders of the stored text states of prompt and negative prompt."""
    person: str = ""
    """A user embedding that the user adapter takes; both are called as the checkpoint is."""


@pytest.fixture(scope="module", autouse=True)
def tidy(server):
    """Gigabytes of random weights leave the server and the disk again."""
    yield
    server.post("/free", {"unload_models": True, "free_memory": True})
    for folder in ("checkpoints", "clip_vision", "ipadapter"):
        for file in (server.base / "models" / folder).glob("*"):  # ComfyUI's lists do not survive a folder's removal
            file.unlink()


@pytest.fixture(scope="module", autouse=True)
def pictures(server):
    """What IP-Adapters are fitted to."""
    folder, generator = server.base / "datasets" / PICTURES, np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(40):
        pixels = generator.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((128, 128)).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def files_of(server, ip_adapter_file):
    """Gives a family's files, and writes them the first time."""
    written: dict[str, Files] = {}
    models = server.base / "models"

    def write(family: str) -> Files:
        name = f"narrow {family}.safetensors"
        files = Files(name)
        text_encoder = family in WITH_TEXT_ENCODER
        write_checkpoint(models / "checkpoints" / name, family, text_encoder=text_encoder)
        if not text_encoder:
            files.text_states = write_text_states(server.base / "datasets", family)
        (models / "ipadapter").mkdir(exist_ok=True)
        shutil.move(ip_adapter_file("plain", widths(family), FAMILIES[family].context_dim), models / "ipadapter" / name)
        files.person = name
        write_person(models / "user_embeddings" / name, write_user_adapter(models / "user_adapters" / name, family))
        return files

    return lambda family: written.get(family) or written.setdefault(family, write(family))


def user_nodes(files, kind):
    """The nodes "adapter" and "person", and what they need."""
    if kind == "user adapter":
        return {
            "adapter": node("PPD_UserAdapterLoader", user_adapter=files.checkpoint),
            "person": node("PPD_UserEmbeddingLoad", user_embedding=files.person),
        }
    picks = {"preference_set": "example: vivid and bold", "user": "", "limit": 4, "skip_bad": False}
    loader = {"ip_adapter": files.checkpoint, "taste_encoder": "pocket", "pictures": f"datasets: {PICTURES}"}
    return {
        "vision": node("SmallClipVision"),
        "adapter": node("PPD_IPAdapterLoader", **loader, clip_vision=["vision", 0]),
        "pairs": node("PreferencePairLoader", **picks),
        "person": node("UserEmbeddingEncoder", pairs=["pairs", 0], encoder="pocket", skip_bad=False),
    }


def graph(files, kind):
    """The stock KSampler beside ours at strength 0 and 1, each picture saved; node ids are names."""
    checkpoint = ["checkpoint", 0]
    prompt = {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=files.checkpoint),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        **user_nodes(files, kind),
    }
    text = {}
    for side in ("positive", "negative"):
        if files.text_states:
            prompt[side], text[side] = node("LoadTrainingDataset", folder_name=files.text_states[side]), [side, 1]
        else:
            prompt[side], text[side] = node("CLIPTextEncode", clip=["checkpoint", 1], text=f"a {side} lake"), [side, 0]
    sampling = {"seed": 3, "steps": 1, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    sampling |= text | {"model": checkpoint, "latent_image": ["latent", 0]}
    user = {"user_adapter": ["adapter", 0], "user_embedding": ["person", 0]}
    prompt["plain"] = node("KSampler", **sampling)
    for name, strength in (("off", 0.0), ("on", 1.0)):
        prompt[name] = node("PersonalizedDenoiser", **sampling, **user, strength=strength)
    for name in ("plain", "off", "on"):
        prompt[f"{name} decoded"] = node("VAEDecode", samples=[name, 0], vae=["checkpoint", 2])
        prompt[f"{name} saved"] = node("SaveImage", images=[f"{name} decoded", 0], filename_prefix=f"families/{name}")
    return prompt


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", MODELS)
def test_a_checkpoint_paints_for_a_person(server, files_of, family, kind):
    files = files_of(family)
    entry = server.run(graph(files, kind))
    plain, off, on = (server.pictures(entry)[f"{name} saved"] for name in ("plain", "off", "on"))
    assert plain.shape == (1, 64, 64, 3) and plain.std() > 5
    assert np.array_equal(off, plain)
    assert not np.array_equal(on, plain)
    assert entry["outputs"]["off"]["text"] == ["Personalization is off: strength is 0."]
    count = FAMILIES[family].count
    acting = len(FAMILIES[family].style) if kind == "IP-Adapter" else count
    (report,) = entry["outputs"]["on"]["text"]
    assert f"({acting} of {count} cross-attention layers;" in report
    assert report.startswith("Paints for 4 picks at strength 1.\n")


@pytest.mark.parametrize("family", TITLES)
def test_a_stock_graphs_pictures_become_a_question(server, store, files_of, family):
    files = files_of(family)
    stock = ("checkpoint", "latent", "positive", "negative", "plain", "plain decoded")
    prompt = graph(files, "user adapter")
    prompt = {name: entry for name, entry in prompt.items() if name in stock}
    prompt["latent"]["inputs"]["batch_size"] = 2
    prompt["collector"] = node("PPD_PreferenceCollector", images=["plain decoded", 0], person=family, prompt="a lake")
    (question,) = server.run(prompt)["outputs"]["collector"]["ppd_question"]
    (candidate,) = store.inbox(store.person_called(family).id)
    assert (candidate.id, candidate.prompt) == (question["id"], "a lake")
    first, second = (
        np.asarray(Picture(store.picture(digest)).open()) for digest in (candidate.first, candidate.second)
    )
    assert first.shape == second.shape == (64, 64, 3)
    assert not np.array_equal(first, second)
    store.delete_person(candidate.person)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_for_another_family_is_refused_and_the_queue_goes_on(server, files_of, kind):
    sd15, sd2 = files_of("sd15"), files_of("sd2")
    wrong = server.submit({**graph(sd15, kind), **user_nodes(sd2, kind)})
    right = server.submit(graph(sd15, kind))
    status = server.finished(wrong)["status"]
    (error,) = [data for kind, data in status["messages"] if kind == "execution_error"]
    assert (error["node_type"], error["exception_type"]) == ("PersonalizedDenoiser", "ValueError")
    assert error["exception_message"].strip() == (
        "The MODEL is SD15 (BaseModel, UNetModel), but the user adapter is for SD2: load a model of that family, "
        "or an adapter for SD1.5."
    )
    assert server.finished(right)["status"]["status_str"] == "success"


@pytest.fixture(scope="module")
def clip_vision(server):
    """ViT-H-14 under the name that the workflows ask for."""
    write_clip_vision(server.base / "models" / "clip_vision" / "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors")


@pytest.mark.parametrize("kind", ["plain", "plus"])
@pytest.mark.parametrize("family", TITLES)
def test_the_learning_workflow_runs_from_nobody(server, store, graphs, files_of, ip_adapter_file, family, kind):
    """The template itself with its loaders' files: a question from nobody, a pick, and the next question knows it.

    A small vision model stands for ViT-H, and where the text encoder is large, stored text states for it."""
    files, person = files_of(family), store.add_person(f"learner {family} {kind}")
    name = f"learning {kind} {files.checkpoint}"
    path = ip_adapter_file(kind, widths(family), FAMILIES[family].context_dim)
    shutil.move(path, server.base / "models" / "ipadapter" / name)
    prompt = graphs.set_inputs(server.prompt(f"learn my taste with {TITLES[family]}"), "PPD_IPAdapterLoader")
    (vision,) = graphs.nodes_of(prompt, "CLIPVisionLoader")
    prompt[vision] = node("SmallClipVision")
    changes = {
        "CheckpointLoaderSimple": {"ckpt_name": files.checkpoint},
        "PPD_IPAdapterLoader": {"ip_adapter": name, "pictures": f"datasets: {PICTURES}"},
        "EmptyLatentImage": {"width": 64, "height": 64},
        "PersonalizedDenoiser": {"steps": 1, "strength": 2.0},
        "PreferencePairLoader": {"preference_set": f"person: {person.name}"},
        "PPD_PreferenceCollector": {"person": person.name},
    }
    for class_type, inputs in changes.items():
        prompt = graphs.set_inputs(prompt, class_type, **inputs)
    if files.text_states:
        texts = dict(zip(graphs.nodes_of(prompt, "CLIPTextEncode"), files.text_states.values(), strict=True))
        for text, folder in texts.items():
            prompt[text] = node("LoadTrainingDataset", folder_name=folder)
        for sampler in graphs.nodes_of(prompt, "PersonalizedDenoiser"):
            for side in ("positive", "negative"):
                prompt[sampler]["inputs"][side] = [prompt[sampler]["inputs"][side][0], 1]
    first, second = graphs.nodes_of(prompt, "PPD_UserEmbeddingSample")
    for number, told in enumerate(("No picks: this is the average person.", "Known from 1 pick.")):
        prompt[first]["inputs"]["seed"], prompt[second]["inputs"]["seed"] = 2 * number + 1, 2 * number + 2
        (seed,) = graphs.nodes_of(prompt, "PrimitiveInt")
        prompt[seed]["inputs"]["value"] = number
        entry = server.run(prompt)
        (encoder,) = graphs.nodes_of(prompt, "UserEmbeddingEncoder")
        if encoder in entry["outputs"]:
            assert entry["outputs"][encoder]["text"][0].startswith(told)
        for sampler in graphs.nodes_of(prompt, "PersonalizedDenoiser"):
            assert (
                entry["outputs"][sampler]["text"][0]
                .split("\n")[1]
                .startswith(f"({len(FAMILIES[family].style)} of {FAMILIES[family].count} ")
            )
        (question,) = store.inbox(person.id)
        one, other = (np.asarray(Picture(store.picture(d)).open()) for d in (question.first, question.second))
        assert not np.array_equal(one, other)
        assert question.origin["first"]["u"] != question.origin["second"]["u"]
        store.pick(question.id, "first", f"{person.id} {number}")
    store.delete_person(person.id)


@pytest.mark.slow
@pytest.mark.parametrize("family", TITLES)
def test_the_familys_workflow_runs_and_yields_pictures(server, graphs, ip_adapter_file, clip_vision, family):
    """With files under the names it asks for, text and image encoders at their full size; fewer picks and steps."""
    prompt, models = server.prompt(f"personal picture with {TITLES[family]}"), server.base / "models"
    (checkpoint,) = (prompt[node]["inputs"]["ckpt_name"] for node in graphs.nodes_of(prompt, "CheckpointLoaderSimple"))
    (name,) = (prompt[node]["inputs"]["ip_adapter"] for node in graphs.nodes_of(prompt, "PPD_IPAdapterLoader"))
    write_checkpoint(models / "checkpoints" / checkpoint, family, text_encoder=True)
    (models / "ipadapter").mkdir(exist_ok=True)
    path = ip_adapter_file("plain", widths(family), FAMILIES[family].context_dim)
    shutil.move(path, models / "ipadapter" / name)
    prompt = graphs.set_inputs(prompt, "PPD_IPAdapterLoader", pictures=f"datasets: {PICTURES}")
    prompt = graphs.set_inputs(prompt, "EmptyLatentImage", width=64, height=64)
    prompt = graphs.set_inputs(prompt, "PreferencePairLoader", limit=1)
    for sampler in ("KSampler", "PersonalizedDenoiser"):
        prompt = graphs.set_inputs(prompt, sampler, steps=2)
    entry = server.run(prompt)
    base, personal = server.pictures(entry).values()
    assert base.shape == personal.shape == (1, 64, 64, 3)
    assert base.std() > 5 and not np.array_equal(base, personal)
    reports = [output["text"][0] for output in entry["outputs"].values() if "cross-attention" in str(output)]
    assert reports and all(
        text.split("\n")[1].startswith(f"({len(FAMILIES[family].style)} of {FAMILIES[family].count} ")
        for text in reports
    )


@pytest.mark.slow
def test_stable_cascades_stage_c_paints_for_a_person(server):
    """A billion weights in a file, by the stock UNETLoader; its latents, since Stage B is no part of ours."""
    models, name = server.base / "models", "stage_c_lite.safetensors"
    layers = write_stage_c(models / "diffusion_models" / name)
    write_person(
        models / "user_embeddings" / name, write_user_adapter(models / "user_adapters" / name, "stable_cascade", layers)
    )
    text = write_text_states(server.base / "datasets", "stable_cascade", width=1280)
    prompt = {
        "model": node("UNETLoader", unet_name=name, weight_dtype="default"),
        "latent": node("StableCascade_EmptyLatentImage", width=256, height=256, compression=42, batch_size=1),
        "adapter": node("PPD_UserAdapterLoader", user_adapter=name),
        "person": node("PPD_UserEmbeddingLoad", user_embedding=name),
    }
    prompt |= {side: node("LoadTrainingDataset", folder_name=folder) for side, folder in text.items()}
    sampling = {"seed": 3, "steps": 1, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    sampling |= {"model": ["model", 0], "latent_image": ["latent", 0]} | {side: [side, 1] for side in text}
    user = {"user_adapter": ["adapter", 0], "user_embedding": ["person", 0]}
    prompt["plain"] = node("KSampler", **sampling)
    for which, strength in (("off", 0.0), ("on", 1.0)):
        prompt[which] = node("PersonalizedDenoiser", **sampling, **user, strength=strength)
    for which in ("plain", "off", "on"):
        prompt[f"{which} saved"] = node("SaveLatent", samples=[which, 0], filename_prefix=f"cascade/{which}")
    entry = server.run(prompt)
    latents = [next((server.base / "output" / "cascade").glob(f"{which}_*.latent")) for which in ("plain", "off", "on")]
    plain, off, on = (load_file(path)["latent_tensor"] for path in latents)
    assert plain.shape == (1, 16, 6, 6) and plain.isfinite().all()
    assert torch.equal(off, plain)
    assert not torch.allclose(on, plain, rtol=1e-2, atol=1e-2)
    (report,) = entry["outputs"]["on"]["text"]
    assert "(stable_cascade, 32 of 32 cross-attention layers" in report
    (models / "diffusion_models" / name).unlink()
