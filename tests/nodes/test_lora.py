"""Save My Taste as LoRA: the file that the stock loader takes, and what the node says."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from safetensors import safe_open

pytestmark = pytest.mark.comfyui
KEY = "diffusion_model.{}.lora_{}.weight"


@pytest.fixture
def pocket(run, comfy_folders):
    """The pocket model, a low-rank adapter for it, and somebody known from four picks."""
    import folder_paths

    adapters = import_module("ppd_pack.ppd.adapters")
    sites = import_module("ppd_pack.ppd.hosts.comfyui_denoisers").linear_sites
    folder_paths.folder_names_and_paths["loras"] = ([str(comfy_folders.models / "loras")], {".safetensors"})
    model = run("PPD_PocketCheckpointLoader", checkpoint="pocket").result[0]
    pairs = run("PreferencePairLoader", preference_set="example: warm").result[0]
    embedding = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]
    config = adapters.LowRankConfig(
        family="pocket",
        encoder=embedding.encoder,
        encoder_hash=embedding.encoder_hash,
        embedding_dim=embedding.dim,
        sites=tuple(sites(model.model.diffusion_model)),
        rank=4,
        end_percent=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = adapters.LowRankAdapter(config)
        for site in adapter.parts():
            torch.nn.init.normal_(site.up, std=0.1)
    (comfy_folders.models / "user_adapters").mkdir()
    adapter.save(comfy_folders.models / "user_adapters" / "lowrank.safetensors")
    return model, run("PPD_UserAdapterLoader", user_adapter="lowrank.safetensors").result[0], embedding


@torch.inference_mode()
def test_the_file_is_in_loras_and_says_nothing_of_the_person(run, comfy_folders, pocket):
    import nodes

    model, adapter, embedding = pocket
    connected = {"user_adapter": adapter, "user_embedding": embedding, "model": model}
    name, report = run("PPD_SaveTasteAsLoRA", **connected, strength=0.5, filename_prefix="tastes/mine").result
    assert name == "tastes/mine_00001_.safetensors"
    layers = len(adapter.model.config.sites)
    assert report.splitlines() == [
        f"Saved {name} in models/loras: The person by 4 picks, at strength 0.5.",
        f"For the pocket model, {layers} layers. Press R to see it in LoRA loaders.",
        "It acts in the whole noise schedule, the adapter from 0% to 50% of it.",
        "It acts on negative prompts too, which the adapter leaves alone: above cfg 1 it is the weaker one.",
    ]
    with safe_open(comfy_folders.models / "loras" / name, "pt") as file:
        assert file.metadata() == {"format": "ppd-lora", "version": "1", "family": "pocket"}
        assert len(file.keys()) == 2 * layers
        up = file.get_tensor(KEY.format(adapter.model.config.sites[0].name, "B"))
    w = 0.5 * (adapter.model.directions @ embedding.u[0])
    assert up.dtype == torch.float16
    torch.testing.assert_close(up.float(), adapter.model.parts()[0].up * w, rtol=1e-3, atol=1e-4)
    loaded = nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, 1.0)[0]
    assert len(loaded.patches) == layers
    again = run("PPD_SaveTasteAsLoRA", **connected, filename_prefix="tastes/mine", precision="bfloat16").result[0]
    assert again == "tastes/mine_00002_.safetensors"


def test_the_person_may_be_chosen_as_in_my_taste(run, node_classes, comfy_folders, pocket):
    _, adapter, embedding = pocket
    embedding.save(comfy_folders.models / "user_embeddings" / "foggy.safetensors")
    name, report = run("PPD_SaveTasteAsLoRA", user_adapter=adapter, person="taste: foggy.safetensors").result
    assert name == "my_taste_00001_.safetensors"
    assert report.startswith("Saved my_taste_00001_.safetensors in models/loras: foggy by 4 picks, at strength 1.")
    node = node_classes["PPD_SaveTasteAsLoRA"]
    assert node.validate_inputs(person="taste: foggy.safetensors") is True
    assert "There is no taste file" in node.validate_inputs(person="taste: other.safetensors")
    before = node.fingerprint_inputs(person="taste: foggy.safetensors")
    embedding.draw(1).save(comfy_folders.models / "user_embeddings" / "foggy.safetensors")
    assert node.fingerprint_inputs(person="taste: foggy.safetensors") != before


def test_it_says_how_to_load_the_lora_on_a_quantised_model(run, pocket):
    model, adapter, embedding = pocket
    layer = model.model.diffusion_model.get_submodule(adapter.model.config.sites[-1].name)
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    connected = {"user_adapter": adapter, "user_embedding": embedding, "model": model}
    report = run("PPD_SaveTasteAsLoRA", **connected).result[1]
    assert "This model is quantised (float8_e4m3fn): load the LoRA beside it, with Load LoRA (Bypass, " in report


def test_what_it_refuses(run, comfy_folders, pocket):
    model, adapter, embedding = pocket
    attention = run("PPD_UserAdapterLoader", user_adapter="pocket").result[0]
    for inputs, said in (
        ({"user_adapter": attention}, "Expected a low-rank user adapter, got one that acts in cross-attention layers"),
        ({"strength": 0.0}, "This LoRA would change nothing .strength is 0.: choose somebody with picks"),
        ({"user_embedding": (embedding, embedding)}, "Expected one person to save as a LoRA, got a batch of 2"),
        ({"filename_prefix": "../../elsewhere"}, "outside"),
    ):
        with pytest.raises(Exception, match=said):
            run("PPD_SaveTasteAsLoRA", **{"user_adapter": adapter, "user_embedding": embedding, **inputs})
    assert not list(comfy_folders.models.rglob("*my_taste*"))
