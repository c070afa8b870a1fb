"""Paint Studies and Add Studies, with the real sampler on small real models."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ppd.studies import noise_of, open_studies

from ..hosts.small_models import ARTISTS, comfy_model, denoiser, qwen_image

pytestmark = pytest.mark.comfyui
PAINT, ADD = "PPD_PaintStudies", "PPD_AddStudies"
OWN = {
    "prompts": ["a lake"],
    "looks": [
        {"id": "boat-house", "low": {"words": "a red boat"}, "high": {"words": "a house", "negative": "boat"}},
        {"id": "moon-hill", "low": {"words": "{prompt} under the moon"}, "high": {"words": "a hill"}},
    ],
}
if find_spec("comfy"):
    import comfy.latent_formats
    import comfy.model_management
    import comfy.sample
    import nodes as stock


@pytest.fixture(scope="module")
def pocket(pack, pocket_base_file):
    """MODEL, CLIP and VAE of the small pocket, whose words are those of conftest's vocabulary."""
    host = sys.modules["ppd_pack.ppd.pocket.comfyui"]
    return SimpleNamespace(**dict(zip(("model", "clip", "vae"), host.load_pocket(pocket_base_file), strict=True)))


@pytest.fixture
def paint(run, pocket, comfy_folders):
    """Runs Paint Studies at a size of seconds."""
    (comfy_folders.input / "mine.looks.json").write_text(json.dumps(OWN))

    def execute(**inputs):
        settings = {"studies": "mine", "count": 2, "width": 64, "height": 64, "steps": 2, "cfg": 3.0}
        settings |= {"sampler_name": "euler", "scheduler": "normal", "looks": "own", "prompts": "a lake\na quiet house"}
        settings |= {"lexicon": "input: mine.looks.json"}
        return run(PAINT, **(vars(pocket) | settings | inputs)).result

    return execute


@torch.inference_mode()
def stock_picture(pocket, text, negative, seed, cfg=3.0):
    """The latent of the stock nodes, and the picture's bytes."""
    encode = stock.CLIPTextEncode().encode
    positive, negative = (encode(pocket.clip, words)[0] for words in (text, negative))
    (empty,) = stock.EmptyLatentImage().generate(64, 64)
    (latent,) = stock.common_ksampler(pocket.model, seed, 2, cfg, "euler", "normal", positive, negative, empty)
    (image,) = stock.VAEDecode().decode(pocket.vae, latent)
    return latent["samples"], (image[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def pixels(entry):
    return np.asarray(entry.picture.open())


def files(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_pictures_are_what_the_stock_nodes_paint_of_the_words_and_the_seed(paint, pocket, comfy_folders):
    studies, sheets, report = paint(negative="red")
    assert report.startswith("mine: 2 pairs of 2 looks on 2 prompts, 4 pictures.\nPainted by Pocket with the weights ")
    assert "width 64, height 64, steps 2, cfg 3.0, sampler_name euler" in report
    assert "\nPainted now: 4 pictures in " in report
    assert sheets.shape == (2, 256, 520, 3)
    assert studies.folder == comfy_folders.datasets / "mine"
    assert studies.model["class"] == "Pocket" and studies.sampling["negative"] == "red"
    boat, moon = (next(iter(studies.pairs(look))) for look in ("boat-house", "moon-hill"))
    assert moon.low.text == f"{moon.prompt} under the moon"
    for entry, text, negative in (
        (boat.low, f"{boat.prompt}, a red boat", "red"),
        (boat.high, f"{boat.prompt}, a house", "red, boat"),
    ):
        latent, picture = stock_picture(pocket, text, negative, boat.seed)
        assert np.array_equal(pixels(entry), picture)
        assert torch.equal(entry.latent(), latent.half().float())
        assert entry.noise_from == "seed"
        assert torch.equal(entry.noise(), comfy.sample.prepare_noise(latent, boat.seed))
    assert not np.array_equal(pixels(boat.low), pixels(boat.high))


def test_a_second_run_paints_what_is_missing_alone(paint):
    first = paint()[0]
    before = files(first.folder)
    assert "; all were there." in paint()[2]
    assert files(first.folder) == before
    more, _, report = paint(count=4, plain=True)
    assert "Painted now: 8 pictures" in report  # two pairs, and four without a look
    pairs = list(more.pairs())
    assert len(pairs) == 4 and all(pair.plain.text == pair.prompt for pair in pairs)
    after = files(first.folder)
    assert all(after[path] == value for path, value in before.items() if path.suffix in (".png", ".safetensors"))


def test_a_cancel_keeps_all_that_is_painted(paint, pocket, comfy_folders):
    seen = []

    def cancel_in_the_third(apply, arguments):
        seen.append(len(arguments["input"]))
        if len(seen) == 5:
            comfy.model_management.interrupt_current_processing()
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])

    model = pocket.model.clone()
    model.set_model_unet_function_wrapper(cancel_in_the_third)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        paint(model=model)
    studies = open_studies(comfy_folders.datasets / "mine")
    assert [entry.side for entry in studies.pictures] == ["low", "high"]
    assert "Painted now: 2 pictures" in paint()[2]
    assert [entry.side for entry in open_studies(studies.folder).pictures] == ["low", "high"] * 2


@pytest.mark.parametrize(("cfg", "rows"), [(1.0, 1), (3.0, 2)])
def test_cfg_1_has_no_unconditional_pass(paint, pocket, cfg, rows):
    seen = []

    def count(apply, arguments):
        seen.append(len(arguments["input"]))
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])

    model = pocket.model.clone()
    model.set_model_unet_function_wrapper(count)
    studies = paint(model=model, cfg=cfg, count=1)[0]
    assert set(seen) == {rows}
    (pair,) = studies.pairs()
    latent, picture = stock_picture(pocket, pair.high.text, "boat", pair.seed, cfg)
    assert np.array_equal(pixels(pair.high), picture)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde", "ddim", "uni_pc", "lcm"])
def test_any_stock_sampler_paints(paint, sampler):
    (pair,) = paint(sampler_name=sampler, scheduler="karras", count=1, steps=3)[0].pairs()
    assert pixels(pair.low).std() > 1 and torch.equal(pair.low.noise(), pair.high.noise())


@pytest.mark.parametrize("family", [name for name in ARTISTS if name != "sdxl"])
def test_other_models_paint_and_are_told_apart(paint, family, comfy_folders):
    """The pocket's text encoder has the width that these denoisers take."""
    first = paint(count=1)[0]
    unet = denoiser(family)
    with pytest.raises(ValueError, match="'mine' were painted by Pocket with the weights .*, and this MODEL is SD"):
        paint(count=1, model=comfy_model(family, unet))
    before = files(first.folder)
    other = paint(count=1, model=comfy_model(family, unet), studies="other")[0]
    assert files(first.folder) == before
    assert other.model == open_studies(comfy_folders.datasets / "other").model
    assert other.model["denoiser"] == "UNetModel" and other.model["config"] != first.model["config"]


def test_a_picture_may_be_a_video_of_one_frame(paint, pocket):
    model, vae = qwen_image()
    (pair,) = paint(count=1, model=model, vae=vae, scheduler="simple")[0].pairs()
    assert pixels(pair.low).shape == (64, 64, 3) and pixels(pair.low).std() > 5
    assert pair.low.latent().shape == (1, 16, 1, 8, 8)
    assert torch.equal(pair.low.noise(), comfy.sample.prepare_noise(pair.low.latent(), pair.seed))


def test_what_paints_no_single_pictures_is_refused(paint, pocket, comfy_folders):
    host = sys.modules["ppd_pack.ppd.hosts.comfyui_studies"]
    model, vae = qwen_image()
    painter = host.Painter(model, pocket.clip, vae, host.Sampling(64, 64, 1, 1.0, "euler", "simple"))
    painter.empty = torch.zeros(1, 16, 2, 8, 8)
    with pytest.raises(ValueError, match=r"The VAE made \[1, 5, 64, 64, 3\] of one latent, expected one picture"):
        painter.paint("a lake", "", 1, lambda *_: None)
    model.add_object_patch("latent_format", comfy.latent_formats.StableAudio1())
    with pytest.raises(ValueError, match="The MODEL is QwenImage, which paints no pictures: load a model that does"):
        paint(model=model, vae=vae)
    assert list(comfy_folders.datasets.iterdir()) == []


def test_a_model_is_known_by_its_weights_and_patches_wherever_they_lie(pack):
    signature = sys.modules["ppd_pack.ppd.hosts.comfyui_studies"].model_signature
    unet = denoiser("sd15")
    model = comfy_model("sd15", unet)
    plain = signature(model)
    assert signature(comfy_model("sd15", unet)) == plain == signature(model.clone())
    key = "diffusion_model.input_blocks.1.1.proj_in.weight"
    weight = model.model_state_dict()[key]
    patches = {key: ("diff", (torch.full_like(weight, 0.5),))}
    patched = {}
    for strength in (0.5, 1.0):
        clone = model.clone()
        clone.add_patches(patches, strength)
        patched[strength] = signature(clone)
        clone.patch_model()  # as when it is loaded: the patch is in the weights now, also in the plain model's
        assert signature(clone) == patched[strength] and signature(model) == plain
        clone.unpatch_model()
    assert len({values["weights"] for values in (plain, *patched.values())}) == 3
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.mul_(1.01)
    assert signature(comfy_model("sd15", unet))["weights"] != plain["weights"]


def test_a_picture_of_no_numbers_stops_it_and_the_rest_is_kept(paint, pocket, comfy_folders):
    calls = []

    def broken(apply, arguments):
        calls.append(1)
        out = apply(arguments["input"], arguments["timestep"], **arguments["c"])
        return out * float("nan") if len(calls) > 2 else out

    model = pocket.model.clone()
    model.set_model_unet_function_wrapper(broken)
    with pytest.raises(ValueError, match="is no numbers: load the VAE or the model in another precision"):
        paint(model=model)
    assert len(open_studies(comfy_folders.datasets / "mine").pictures) == 1


def test_words_that_say_nothing_to_the_model_are_named(paint, comfy_folders):
    looks = [{"id": "a-b", "low": {"name": "warm", "words": ""}, "high": {"name": "cool", "words": ""}}]
    (comfy_folders.input / "mine.looks.json").write_text(json.dumps({"looks": looks}))
    assert "The model paints both sides of these looks the same: warm / cool." in paint(count=1)[2]


def test_the_packs_lexicon_is_the_default(run, pocket):
    settings = {"width": 64, "height": 64, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
    studies = run(PAINT, **vars(pocket), count=3, **settings).result[0]
    assert studies.name == "my studies" and len(studies.looks) == 85 and len(studies.pictures) == 6


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"studies": "../elsewhere"}, "Expected the name of a folder in ComfyUI's datasets folder"),
        ({"studies": " "}, "Expected the name of a folder in ComfyUI's datasets folder"),
        ({"looks": "nothing"}, "no look or category 'nothing'"),
        ({"lexicon": "input: ../x.looks.json"}, "There is no lexicon 'input: ../x.looks.json'"),
        ({"clip": None}, "has no text encoder: load one with a CLIP loader"),
    ],
)
def test_wrong_inputs_get_one_sentence_and_nothing_is_written(paint, comfy_folders, inputs, said):
    with pytest.raises(ValueError, match=said):
        paint(**inputs)
    assert list(comfy_folders.datasets.iterdir()) == []


def test_a_full_disk_is_told_before_anything_is_painted(paint, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match="200 pictures need about 1.6 MB, and the disk of 'mine' has 0.1 MB free"):
        paint(count=100)


def test_a_set_is_no_preference_set_and_its_change_is_seen(paint, node_classes, comfy_folders):
    node = node_classes[PAINT]
    assert node.fingerprint_inputs(studies="mine") == ""
    paint(count=1)
    stamp = node.fingerprint_inputs(studies="mine")
    paint(count=2)
    assert node.fingerprint_inputs(studies="mine") != stamp != ""
    assert comfy_folders.module.study_sets() == ["mine"]
    assert [name for name in comfy_folders.module.preference_sets() if "mine" in name] == []
    lexicons = node.INPUT_TYPES()["optional"]["lexicon"][1]["options"]
    assert lexicons == ["pack", "input: mine.looks.json"]


def batch(value, count=2):
    return torch.full((count, 16, 16, 3), value) + torch.arange(count).view(-1, 1, 1, 1) / 100


def test_finished_pictures_become_studies_once(run, comfy_folders):
    inputs = {"studies": "loras", "low_name": "my lineart", "high_name": "私の油彩", "prompt": "a dog", "seed": 7}
    studies, sheets, report = run(ADD, low=batch(0.2), high=batch(0.7), look="own names", **inputs).result
    assert report == "loras: 2 pairs of 1 look on 1 prompt, 4 pictures.\nAdded now: 2 pairs."
    assert sheets.shape == (2, 256, 520, 3) and sheets[0, 100, 100, 0] < sheets[0, 100, 400, 0]
    (look,) = studies.looks.values()
    assert (look.low.name, look.high.name, look.category) == ("my lineart", "私の油彩", "own")
    first, _ = studies.pairs()
    assert (first.prompt, first.seed, first.low.text) == ("a dog", 7, "a dog")
    assert pixels(first.high)[0, 0].tolist() == [178, 178, 178]
    again = run(ADD, low=batch(0.2, 3), high=batch(0.7, 3), look="own names", **inputs).result
    assert again[2].endswith("Added now: 1 pair; 2 were there.") and len(again[0].pictures) == 6
    warm = run(ADD, low=batch(0.1), high=batch(0.9), look="cool-warm", studies="loras").result[0]
    assert {look.high.name for look in warm.looks.values()} == {"私の油彩", "warm"}


def test_painted_and_finished_studies_share_a_set(paint, run):
    run(ADD, low=batch(0.2), high=batch(0.7), look="cool-warm", studies="mine")
    studies = paint()[0]
    assert len(list(studies.pairs())) == 4
    assert sum(pair.low.latent_file is None for pair in studies.pairs()) == 2


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"high": batch(0.7, 3)}, "There are 2 low and 3 high pictures"),
        ({"high": batch(0.2)}, "Pair 1 cannot be filed: its two pictures are the same"),
        ({"low": batch(float("nan"))}, "Pair 1 cannot be filed: a picture holds values that are no numbers"),
        ({"look": "own names"}, "Expected two names of an own look, got '' and ''"),
        ({"look": "own names", "low_name": "a", "high_name": " a"}, "got 'a' and 'a'"),
    ],
)
def test_wrong_pictures_get_one_sentence_and_nothing_is_written(run, comfy_folders, inputs, said):
    with pytest.raises(ValueError, match=said):
        run(ADD, **({"low": batch(0.2), "high": batch(0.7), "look": "cool-warm"} | inputs))
    assert list(comfy_folders.datasets.iterdir()) == []


def test_seeds_give_comfyuis_noise():
    for seed, shape in ((0, (1, 4, 8, 8)), (2**63 + 5, (1, 16, 5, 7)), (123, (1, 16, 1, 6, 4))):
        assert torch.equal(noise_of(seed, shape), comfy.sample.prepare_noise(torch.zeros(shape), seed))


def test_the_default_count_paints_enough_pairs_of_every_look_for_a_taste_encoder(node_classes):
    from collections import Counter

    from ppd.encoders.workshop import LEAST_PAIRS
    from ppd.lexicon import read_lexicon
    from ppd.studies import plan

    inputs = node_classes["PPD_PaintStudies"].GET_SCHEMA().inputs
    (count,) = [entry.default for entry in inputs if entry.id == "count"]
    words = read_lexicon()
    painted = Counter(cell.look.id for cell in plan(words.chosen(""), words.prompts, count, 0))
    assert painted.keys() == words.looks.keys() and min(painted.values()) >= LEAST_PAIRS
