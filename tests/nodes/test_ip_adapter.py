"""A published IP-Adapter, ComfyUI's own CLIP vision model and a taste encoder in the nodes."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.comfyui

VISION = {
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "image_size": 224,
    "intermediate_size": 256,
    "layer_norm_eps": 1e-05,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 3,
    "patch_size": 56,
    "projection_dim": 1024,
}
NAME = "ip-adapter_sd15.safetensors"


@pytest.fixture(scope="module")
def clip_vision(comfyui_path):
    """ViT-H-14's widths with three layers and sixteen patches, random weights, as Load CLIP Vision gives it."""
    import comfy.clip_vision

    model = comfy.clip_vision.ClipVisionModel(VISION)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(tensor.shape, generator=generator) * 0.02 if tensor.is_floating_point() else tensor
        for name, tensor in model.get_sd().items()
    }
    positions = "vision_model.embeddings.position_ids"
    model.load_sd({name: tensor for name, tensor in weights.items() if name != positions})
    return model


@pytest.fixture(params=["plain", "plus"])
def file(request, comfy_folders, ip_adapter_file):
    """In models/ipadapter; the plus file in halves, as published."""
    folder = comfy_folders.models / "ipadapter"
    folder.mkdir()
    file = shutil.copy(ip_adapter_file(request.param, [8] * 16, 768), folder / NAME)
    if request.param == "plus":
        save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    return file


@pytest.fixture
def output(comfy_folders, monkeypatch):
    """70 pictures, some of them in a folder, in ComfyUI's output."""
    import folder_paths

    folder = comfy_folders.output
    monkeypatch.setattr(folder_paths, "output_directory", str(folder))
    (folder / "more").mkdir()
    generator = np.random.default_rng(0)
    for number in range(70):
        pixels = generator.integers(0, 255, (2, 2, 3), dtype=np.uint8)
        place = folder / "more" if number % 2 else folder
        Image.fromarray(pixels).resize((32, 32)).save(place / f"{number:03}.png")
    return folder


def load(run, clip_vision, **more):
    inputs = {"ip_adapter": NAME, "taste_encoder": "pocket", "pictures": "output", "clip_vision": clip_vision}
    return run("PPD_IPAdapterLoader", **inputs, **more).result[0]


@pytest.fixture
def eyes(comfy_folders, clip_vision, monkeypatch):
    """In models/clip_vision: its file has ViT-H-14's patches, by which it is found; a small model of its class is
    loaded, since ComfyUI's loader knows the full size only."""
    import comfy.clip_vision
    import folder_paths

    (comfy_folders.models / "clip_vision").mkdir()
    patches = {"vision_model.embeddings.patch_embedding.weight": torch.zeros(1280, 3, 1, 1)}
    save_file(patches, comfy_folders.models / "clip_vision" / "eyes.safetensors")
    folder_paths.filename_list_cache.clear()
    monkeypatch.setattr(comfy.clip_vision, "load", lambda path: clip_vision)


def widen(file):
    """For layers as wide as the narrowest SD1.5 that ComfyUI knows."""
    wide = load_file(file)
    for name, weight in wide.items():
        if "to_k_ip" in name or "to_v_ip" in name:
            wide[name] = weight.repeat(40, 1)
    save_file(wide, file)


def adapter_of(personal):
    (mine,) = personal.get_additional_models_with_key("ppd_user")
    return mine


def test_my_taste_fits_the_same_by_itself_to_the_oldest_pictures(run, file, output, clip_vision, eyes):
    from ppd.families import FAMILIES

    from .test_my_taste import unet

    sd15 = unet("SD15", depths=(1, 1, 1, 0), context=768, linear=False)
    for path in output.rglob("*.png"):
        os.utime(path, (int(path.stem), int(path.stem)))
    narrow = run("PPD_MyTaste", model=sd15).result
    assert narrow[0] is sd15 and f"Put {NAME} in models/ipadapter." in narrow[1]  # the file is of narrower layers
    widen(file)
    personal, report = run("PPD_MyTaste", model=sd15).result
    assert report == (
        "Paints for the average person, at strength 1. No picks are known yet: answer questions in the tab Taste.\n"
        f"Took the IP-Adapter {NAME} with eyes.safetensors, fitted to 64 pictures of the output folder, and the taste "
        "encoder pocket."
    )
    mine = adapter_of(personal)
    assert len(mine.model.config.layers) == FAMILIES["sd15"].count
    shutil.copy(output / "000.png", output / "painted.png")
    again = run("PPD_MyTaste", model=sd15, strength=0.5).result[0]
    assert adapter_of(again) is mine  # fitted once, whatever is painted
    for path in [output / "painted.png", *(next(output.rglob(f"{number:03}.png")) for number in range(64, 70))]:
        path.unlink()
    torch.testing.assert_close(mine.model.directions, load(run, clip_vision).model.directions)


def test_my_taste_fits_to_the_same_pictures_until_twice_as_many_are_there():
    steady = importlib.import_module("ppd_pack.nodes.my_taste")._steady
    pictures = [Path(f"{number}.png") for number in range(3000)]
    assert [len(steady(pictures[:count])) for count in (0, 31, 32, 63, 64, 1023, 3000)] == [0, 31, 32, 32, 64, 512, 512]
    assert steady(pictures[:2048]) == steady(pictures) == tuple(pictures[:2048:4])


@pytest.fixture(scope="module")
def sd15(comfyui_path, tmp_path_factory):
    """SD1.5 at the narrowest width, random weights, by ComfyUI's own loader."""
    import comfy.sd

    from tests.server.model_files import write_checkpoint

    path = tmp_path_factory.mktemp("sd15") / "sd15.safetensors"
    write_checkpoint(path, "sd15", text_encoder=False)
    return comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)[0]


@torch.inference_mode()
def paint(model):
    import nodes

    states = torch.randn(2, 1, 77, 768, generator=torch.Generator().manual_seed(1))
    positive, negative = ([[one, {}]] for one in states)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    return nodes.KSampler().sample(model, 5, 1, 3.0, "euler", "normal", positive, negative, latent)[0]["samples"]


@pytest.mark.parametrize("file", ["plain"], indirect=True)
def test_my_taste_paints_by_an_ip_adapter_and_off_is_the_plain_picture(
    run, comfy_folders, file, output, eyes, sd15, monkeypatch
):
    """Bit for bit at strength 0, with no time to act, and for the null user; then, but for the latter, nothing is
    fitted."""
    from ppd.user_embedding import null_user

    from .test_my_taste import pick

    widen(file)
    module, store = importlib.import_module("ppd_pack.nodes.my_taste"), comfy_folders.module.taste_store()
    person = store.add_person("ann").id
    pick(store, person, 5)
    somebody = run("UserEmbeddingEncoder", pairs=pairs_of(run), encoder="pocket").result[0]
    null_user(somebody).save(comfy_folders.models / "user_embeddings" / "null.safetensors")
    plain, fits, fit = paint(sd15), [], module.fit_to_taste
    monkeypatch.setattr(module, "fit_to_taste", lambda *given, **more: fits.append(given) or fit(*given, **more))

    def painted(person, **more):
        model, report = run("PPD_MyTaste", model=sd15, person=person, **more).result
        return paint(model), report

    for more, why in (
        ({"strength": 0.0}, "strength is 0"),
        ({"start_percent": 0.5, "end_percent": 0.5}, "start_percent is not below end_percent"),
    ):
        picture, report = painted(person, **more)
        assert torch.equal(picture, plain) and report == f"The plain picture: {why}." and not fits
    of_null, report = painted("taste: null.safetensors")
    assert torch.equal(of_null, plain) and report.startswith("The plain picture: the null user paints as the base.")
    of_ann, report = painted(person)
    of_average, _ = painted(person, first_answers=0)
    assert report.startswith("Paints for ann by 5 picks, at strength 1.\nTook the IP-Adapter ")
    assert of_ann.isfinite().all() and len(fits) == 1
    for one, other in ((of_ann, plain), (of_average, plain), (of_ann, of_average)):
        assert (one - other).norm() > 1e-3 * plain.norm()
    pick(store, person, 2)
    _, report = run("PPD_MyTaste", model=sd15, person=person).result
    assert report.startswith("Paints for ann by 7 picks") and len(fits) == 1  # other picks, the same adapter


def pairs_of(run, name="warm"):
    return run("PreferencePairLoader", preference_set=f"example: {name}").result[0]


def test_files_are_listed_and_others_are_refused(run, comfy_folders, node_classes, file, clip_vision):
    (comfy_folders.models / "ipadapter" / "old.bin").write_bytes(b"pickle")
    (comfy_folders.models / "ipadapter" / "notes.txt").write_text("x")
    import folder_paths

    folder_paths.filename_list_cache.clear()
    required = node_classes["PPD_IPAdapterLoader"].INPUT_TYPES()["required"]
    assert required["ip_adapter"][1]["options"] == [NAME, "old.bin"]
    assert required["taste_encoder"][1]["options"][0] == "pocket"
    assert required["pictures"][1]["options"][:2] == ["output", "input"]
    with pytest.raises(ValueError, match="not safetensors.*convert it"):
        run(
            "PPD_IPAdapterLoader",
            ip_adapter="old.bin",
            taste_encoder="pocket",
            pictures="output",
            clip_vision=clip_vision,
        )


def test_it_takes_the_taste_encoders_embeddings_of_nobody_too(run, comfy_folders, file, output, clip_vision):
    """From no picks to a draw, to a batch: what an encoder makes fits."""
    adapter = load(run, clip_vision).model
    nobody = run("UserEmbeddingEncoder", pairs=[], encoder="pocket", skip_bad=False).result[0]
    somebody = run("UserEmbeddingEncoder", pairs=pairs_of(run), encoder="pocket", skip_bad=False).result[0]
    draws = [run("PPD_UserEmbeddingSample", user_embedding=nobody, seed=seed).result[0] for seed in (1, 2)]
    for embedding in (nobody, somebody, *draws):
        adapter.config.check_embedding(embedding)
    first, second = (adapter.keys_values(draw.u[None], [7])[0] for draw in draws)
    assert first[0].shape == (1, 2 * adapter.config.tokens, 8) and not torch.allclose(first[0], second[0])
    assert adapter.center.shape == adapter.directions.shape[1:]
    assert torch.equal(adapter.start, adapter.center)


def test_own_pictures_and_again(run, comfy_folders, file, output, clip_vision):
    adapter = load(run, clip_vision).model
    seen = len(list(comfy_folders.user.rglob("*.npy")))
    assert seen == 140  # by the taste encoder and by the IP-Adapter
    own = load(run, clip_vision, own_pictures=pairs_of(run)).model
    assert len(list(comfy_folders.user.rglob("*.npy"))) == seen + 4
    assert torch.equal(own.center, adapter.center) and not torch.allclose(own.start, own.center)


def test_too_few_pictures(run, file, output, clip_vision):
    for path in sorted(output.rglob("*.png"))[:40]:
        path.unlink()
    with pytest.raises(ValueError, match="takes at least 32 pictures, got 30: choose a folder with more"):
        load(run, clip_vision)


def test_without_eyes_there_is_no_adapter(run, file, output):
    assert load(run, None) is None
