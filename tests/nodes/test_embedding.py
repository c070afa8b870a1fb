"""User embeddings as nodes."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from safetensors import safe_open

from ppd.enough import enough

pytestmark = pytest.mark.comfyui


@pytest.fixture
def people(run):
    """The embeddings of the two example people."""
    found = {}
    for name in ("warm", "calm"):
        pairs = run("PreferencePairLoader", preference_set=f"example: {name}").result[0]
        found[name] = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]
    return found


def test_pairs_become_an_embedding_and_a_report(run, comfy_folders):
    pairs = run("PreferencePairLoader", preference_set="example: warm").result[0]
    embedding, report = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result
    assert embedding.u.shape == (1, 6) and embedding.pairs == 4
    prior = import_module("ppd_pack.nodes.encoders").load_encoder("pocket").prior
    known = import_module("ppd_pack.ppd.enough").enough(prior, embedding.covariance)
    assert (
        report.startswith(f"Known from 4 picks. {known.told()}\n")
        and "\n(read by pocket-clip, embedding length " in report
    )
    cached = list(comfy_folders.user.rglob("*.npy"))
    assert len(cached) == 8 and all("__ppd" in str(path) for path in cached)  # not served over HTTP
    again = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]
    assert torch.equal(again.u, embedding.u)


def test_no_pairs_are_the_population_user(run, comfy_folders):
    folder = comfy_folders.weights / "taste_encoders" / "pocket"
    prior = import_module("ppd_pack.ppd.encoders.encoder").TasteEncoder.load(folder).prior
    embedding, report = run("UserEmbeddingEncoder", pairs=[], encoder="pocket").result
    torch.testing.assert_close(embedding.u[0], prior.mean)
    nobody = "No picks: this is the average person. 0 % known: about 8 more picks to go.\n"
    assert report.startswith(f"{nobody}Not asked yet: cold / warm, dark / pale.\n(read by ")


def test_nobody_is_known_by_nought_and_not_less(run):
    """With the shipped prior, whose variance rounds otherwise than the posterior's."""
    from ppd.pocket.studio import load_encoder

    encoder = load_encoder()
    known = enough(encoder.prior, encoder.encode([]).covariance)
    assert known.told() == "0 % known: about 8 more picks to go."


def test_bad_pictures_stop_it_or_are_reported(run, example):
    folder = example("input")
    pairs = run("PreferencePairLoader", preference_set="input: mine").result[0]
    (folder / "images" / "2-chosen.png").write_bytes(b"broken now")
    with pytest.raises(ValueError, match="pair-2"):
        run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket")
    embedding, report = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket", skip_bad=True).result
    assert embedding.pairs == 3 and "Left out 1:" in report


def test_cancel_works_at_once(run):
    import comfy.model_management

    pairs = run("PreferencePairLoader", preference_set="example: warm").result[0]
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket")


def test_encoder_fingerprint_is_of_its_files(node_classes, comfy_folders):
    first = node_classes["UserEmbeddingEncoder"].fingerprint_inputs(encoder="pocket", skip_bad=False)
    assert len(first.split()) == 2
    assert node_classes["UserEmbeddingEncoder"].fingerprint_inputs(encoder="pocket", skip_bad=True) == first


def test_save_and_load(run, node_classes, comfy_folders, people):
    for _ in range(2):
        run("PPD_UserEmbeddingSave", user_embedding=people["warm"], filename_prefix="us/ann")
    saved = run("PPD_UserEmbeddingSave", user_embedding=people["warm"], filename_prefix="ann", overwrite=True)
    assert saved.ui.as_dict()["text"][0] == "Saved ann.safetensors with 4 pairs behind it."
    node = node_classes["PPD_UserEmbeddingLoad"]
    (combo,) = node.GET_SCHEMA().inputs
    assert set(combo.options) == {"ann.safetensors", "us/ann_00001_.safetensors", "us/ann_00002_.safetensors"}
    loaded = run("PPD_UserEmbeddingLoad", user_embedding="us/ann_00002_.safetensors").result[0]
    assert torch.equal(loaded.u, people["warm"].u) and loaded.covariance_factor is None
    first = node.fingerprint_inputs(user_embedding="ann.safetensors")
    run("PPD_UserEmbeddingSave", user_embedding=people["calm"], filename_prefix="ann", overwrite=True)
    assert node.fingerprint_inputs(user_embedding="ann.safetensors") != first


def test_the_covariance_is_saved_only_when_asked_for(run, comfy_folders, people):
    run("PPD_UserEmbeddingSave", user_embedding=people["warm"], with_covariance=True, overwrite=True)
    with safe_open(comfy_folders.models / "user_embeddings" / "person.safetensors", "pt") as file:
        assert set(file.keys()) == {"u", "covariance_factor"}


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x"])
def test_saving_stays_in_its_folder(run, comfy_folders, people, name):
    with pytest.raises(Exception, match="outside the output folder|Saving"):
        run("PPD_UserEmbeddingSave", user_embedding=people["warm"], filename_prefix=name)
    assert not list(comfy_folders.models.parent.glob("*.safetensors"))


def test_loading_stays_in_its_folder(run, comfy_folders, people):
    people["warm"].save(comfy_folders.models / "secret.safetensors")
    (comfy_folders.models / "user_embeddings").mkdir()
    with pytest.raises(FileNotFoundError):
        run("PPD_UserEmbeddingLoad", user_embedding="../secret.safetensors")


def test_blend(run, people):
    a, b = people["warm"], people["calm"]
    for weight in (0.0, 0.25, 1.0):
        mixed = run("PPD_UserEmbeddingBlend", first=a, second=b, weight=weight).result[0]
        torch.testing.assert_close(mixed.u, (1 - weight) * a.u + weight * b.u)
    with pytest.raises(ValueError, match="one person to blend, got a batch of 2"):
        run("PPD_UserEmbeddingBlend", first=(a, b), second=b)


def test_batch(run, people):
    a, b = people["warm"], people["calm"]
    batch = run("PPD_UserEmbeddingBatch", people={"person_0": a, "person_1": (b, a)}).result[0]
    assert batch == (a, b, a)
    with pytest.raises(ValueError, match="one person to save"):
        run("PPD_UserEmbeddingSave", user_embedding=batch)


def test_what_is_bypassed_leaves_nobody_and_not_the_average_person(run, people):
    nobody, report = run("UserEmbeddingEncoder", encoder="pocket").result
    assert nobody.is_null and nobody.u.shape == people["warm"].u.shape
    assert report == "No pairs are connected: nobody's taste, so pictures stay plain."
    assert run("PPD_UserEmbeddingSample", user_embedding=nobody, seed=3).result[0].is_null
    assert run("PPD_UserEmbeddingSample", seed=3).result[0] is None
    assert run("PPD_UserEmbeddingBlend").result[0] is None
    for side in ("first", "second"):
        assert run("PPD_UserEmbeddingBlend", **{side: people["calm"]}).result[0] is people["calm"]


def test_a_taste_is_shared_behind_noise_and_the_file_and_the_reports_say_so(run, people, comfy_folders):
    saved = run("PPD_UserEmbeddingSave", user_embedding=people["warm"], filename_prefix="noisy", epsilon=4.0)
    told = "noise hides each single pick (epsilon 4, delta 1e-05)"
    assert saved.ui.as_dict()["text"][0].endswith(f" behind it. In it {told}.")
    (path,) = comfy_folders.models.rglob("noisy_*.safetensors")
    with safe_open(path, "pt") as file:
        metadata, names = file.metadata(), set(file.keys())
    assert (metadata["epsilon"], metadata["delta"], names) == ("4.0", "1e-05", {"u"})
    found, report = run("PPD_UserEmbeddingLoad", user_embedding=path.name).result
    assert report.startswith("About ") and report.endswith(f"read by pocket-clip; {told}.")
    assert not torch.equal(found.u, people["warm"].u)
    (code,) = run("PPD_TasteToCode", user_embedding=found).result
    assert code.startswith("ppd2:") and told in run("PPD_TasteCode", code=code).result[1]
    (code,) = run("PPD_TasteToCode", user_embedding=people["calm"], epsilon=2.0).result
    assert "(epsilon 2, delta 1e-05)" in run("PPD_TasteCode", code=code).result[1]
    with pytest.raises(ValueError, match="has its noise already"):
        run("PPD_UserEmbeddingSave", user_embedding=found, epsilon=4.0)
    with pytest.raises(ValueError, match="does not come from picks"):
        run(
            "PPD_TasteToCode",
            user_embedding=run("PPD_UserEmbeddingSample", user_embedding=people["warm"]).result[0],
            epsilon=1,
        )
