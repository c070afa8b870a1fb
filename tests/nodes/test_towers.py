"""A taste encoder whose tower is a model of the user's: in the queue it looks, beside the queue it remembers."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from ..encoders.towers.vlm_models import write_vlm

pytestmark = pytest.mark.comfyui


@pytest.fixture
def eyes(comfy_folders, monkeypatch):
    """A taste encoder "eyes" in models/taste_encoders, by a tiny vision-language model in models/vlm."""
    import folder_paths

    encoder = import_module("ppd_pack.ppd.encoders.encoder")
    prior_class = import_module("ppd_pack.ppd.encoders.population").PopulationPrior
    towers = import_module("ppd_pack.ppd.encoders.towers")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vlm", ([str(comfy_folders.models)], set()))
    write_vlm(comfy_folders.models / "tiny", "qwen2_5_vl")
    reference = {"kind": "transformers", "directory": "tiny", "layer": 3, "name": "tiny"}
    tower = towers.open_tower(reference, find=lambda kind, name: comfy_folders.models / name)
    reference["hash"] = tower.weight_hash
    torch.manual_seed(0)
    prior = prior_class(torch.zeros(4), torch.eye(4), torch.zeros(32), torch.randn(32, 4), "tiny", tower.weight_hash)
    encoder.TasteEncoder(reference, prior).save(comfy_folders.models / "taste_encoders" / "eyes")
    return tower


def test_pairs_are_read_by_it_in_the_queue_and_from_the_cache_beside_it(run, eyes):
    encoders = import_module("ppd_pack.nodes.encoders")
    assert encoders.taste_encoders() == ["pocket", "eyes"]
    pairs = run("PreferencePairLoader", preference_set="example: warm").result[0]
    beside = encoders.read_encoder("eyes")
    with pytest.raises(ValueError, match="tiny never looked at, and it works in ComfyUI's queue only"):
        beside.encode(pairs)
    embedding, report = run("UserEmbeddingEncoder", pairs=pairs, encoder="eyes").result
    assert embedding.encoder == "tiny" and report.startswith("Known from 4 picks. ") and "(read by tiny, " in report
    torch.testing.assert_close(beside.encode(pairs).u, embedding.u)
    seen = eyes.features([eyes.prepare(pairs[0].chosen.open())])
    torch.testing.assert_close(beside.features.picture_features([pairs[0].chosen]), seen)


def test_the_model_stays_open_for_the_next_run_and_another_in_its_place_is_refused(run, eyes, comfy_folders):
    encoders = import_module("ppd_pack.nodes.encoders")
    first = encoders.load_encoder("eyes").features.tower
    assert encoders.load_encoder("eyes").features.tower is first
    encoders._tower.cache_clear()
    write_vlm(comfy_folders.models / "tiny", "qwen2_5_vl", seed=1)
    with pytest.raises(ValueError, match="The tower tiny is another than the taste encoder was made with"):
        encoders.load_encoder("eyes")


def test_what_is_collected_is_looked_at_in_the_queue_so_that_the_tab_can_ask(run, eyes, comfy_folders):
    interviews = import_module("ppd_pack.nodes.interviews")
    store = comfy_folders.module.taste_store()
    aki = store.add_person("Aki").id
    store.set_encoder(aki, "eyes")
    pictures = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(2))
    first, second = (import_module("ppd_pack.ppd.pictures").Picture.from_tensor(one) for one in pictures)
    asked = store.add_candidate(aki, "a dog", first, second)
    interview = interviews.interview_of(aki)
    assert interview.ask(aki)[0] is None  # nobody looked yet
    interviews.look_in_queue(aki)
    assert interview.ask(aki)[0].id == asked
