"""The whole recipe at toy size: every file from nothing, the same when it is stopped at each stage, all figures."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ppd import cli
from ppd.adapters import LowRankAdapter, UserAdapter
from ppd.encoders.encoder import TasteEncoder
from ppd.encoders.towers import open_tower
from ppd.files import file_digest
from ppd.pairs import read_pairs
from ppd.pocket import autoencoder, data, encoder, evaluate, examples, flow, looks, model, parts, people, recipe, scenes
from ppd.pocket.painter import preview_colors
from ppd.pocket.recipe import STAGES, Recipe
from ppd.pocket.statistics import STATISTICS
from ppd.pocket.studio import load_encoder
from ppd.pocket.taste import draw_support, embed_people
from ppd.pocket.world import POCKET, POCKET_FLOW

FILES = {
    "pocket_base.safetensors",
    "pocket_classifier.safetensors",
    "pocket_world.safetensors",
    "taste_encoders/pocket/encoder.safetensors",
    "taste_encoders/pocket/tower.safetensors",
    "adapters/pocket.safetensors",
    "adapters/pocket-seed2.safetensors",
    "baselines/pocket-population.safetensors",
}
TOY: tuple[tuple[dict, dict], ...] = (
    (autoencoder.VAE_CONFIG, {"width": 16, "fine_width": 8}),
    (model.UNET_CONFIG, {"block_out_channels": (32, 32), "cross_attention_dim": 32}),
    (model.TEXT_CONFIG, {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}),
    (encoder.VISION, {"layers": 1, "width": 32}),
    (encoder.TEXT, {"width": 32, "layers": 1}),
    (
        POCKET.steps,
        {"autoencoder": 30, "decoder": 2, "base": 3, "encoder": 3, "classifier": 3, "adapter": 2},
    ),
    (POCKET.sizes, {"pictures": 160, "decoded": 160, "pool": 60}),
    (people.SPLITS, {"training": 16, "tuning": 4, "reporting": 4}),
)


@pytest.fixture(scope="module", autouse=True)
def toy_sizes():
    """14 scenes, 160 pictures, 24 people, narrow models, a few steps; the stages themselves are the real ones."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several add the gradient of an indexed table in any order, so no two runs are alike
    with pytest.MonkeyPatch.context() as patch, torch.compiler.set_stance("force_eager"):
        few = scenes.SCENES[::18]
        captions = [scene.caption for scene in few]
        patch.setattr(scenes, "SCENES", few)
        patch.setattr(scenes, "HELD_OUT_CAPTIONS", captions[3::7])
        patch.setattr(scenes, "TRAINING_CAPTIONS", [caption for caption in captions if caption not in captions[3::7]])
        patch.setattr(data, "ProcessPoolExecutor", ThreadPoolExecutor)  # processes would not see the toy sizes
        for settings, values in TOY:
            for name, value in values.items():
                patch.setitem(settings, name, value)
        for name, value in {"PICKS_PER_PERSON": 3, "SUPPORTS": 2}.items():
            patch.setattr(parts, name, value)
        patch.setattr(recipe, "GAINS", (1.0, 2.0))
        for module in (parts, recipe, evaluate, examples):
            patch.setattr(module, "SUPPORT_COUNTS", (1, 2, 4))
        for name, value in {"PICTURES_PER_PERSON": 2, "HELD_OUT_PICTURES": 30, "STRENGTHS": (0.0, 1.0, 1.5)}.items():
            patch.setattr(evaluate, name, value)
        patch.setattr(evaluate, "READ_PAIRS", (2, 4))
        for name, value in {"STUDIES": 4, "OTHERS": 20}.items():
            patch.setattr(looks, name, value)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(toy_sizes: None, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """An uninterrupted run, by the command line."""
    folder = tmp_path_factory.mktemp("whole")
    command = ["train", "pocket", "--work", str(folder / "work"), "--weights", str(folder / "weights")]
    assert cli.main([*command, "--json", str(folder / "seconds.json")]) == 0
    return Recipe(folder / "work", folder / "weights")


def test_every_file_is_made(finished):
    made = {path.relative_to(finished.weights).as_posix() for path in finished.weights.rglob("*.safetensors")}
    assert made == FILES
    for name in POCKET.examples:
        pairs = list(read_pairs(finished.weights / "examples" / name))
        assert len(pairs) == 4 and all(pair.prompt in scenes.TRAINING_CAPTIONS for pair in pairs)
        taste = json.loads((finished.weights / "examples" / name / "taste.json").read_text())["weights"]
        assert list(taste) == list(STATISTICS)
    assert sum(path.stat().st_size for path in finished.weights.rglob("*") if path.is_file()) < 40e6
    assert not list(finished.work.glob("*.part*"))


def test_floating_point_weights_are_half_precision(finished):
    for name in ("pocket_base", "taste_encoders/pocket/tower", "pocket_classifier", "adapters/pocket"):
        tensors = load_file(finished.weights / f"{name}.safetensors").values()
        assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float16}, name


def test_the_time_of_every_stage_is_noted(finished):
    seconds = json.loads((finished.work.parent / "seconds.json").read_text())["seconds"]
    assert seconds.keys() == set(STAGES) - {"turbo"} | {f"adapter {name}" for name in POCKET.adapters}


def test_reading_makes_nothing(tmp_path):
    """What is missing is named, with the command that makes it."""
    empty = Recipe(tmp_path / "work", tmp_path / "weights")
    for part in (
        "data",
        "vae",
        "latents",
        "decoded",
        "model",
        "encoder",
        "taste_encoder",
        "classifier",
        "painted",
        "units",
    ):
        with pytest.raises(ValueError, match=r"There is no .* in .*: `python -m ppd train pocket` makes it"):
            getattr(empty, part)
    with pytest.raises(ValueError, match=r"There is no pocket.safetensors .*`python -m ppd train pocket`"):
        empty.adapter("pocket")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["work.json"]


class Stopped(BaseException):
    """As if the process were killed."""


def test_a_run_stopped_after_every_stage_makes_the_same_weights(finished, tmp_path, monkeypatch):
    stopped_at: set[str] = set()
    note = Recipe._note

    def stop_once(self: Recipe, stage: str, seconds: float) -> None:
        if stage not in stopped_at:
            stopped_at.add(stage)
            raise Stopped
        note(self, stage, seconds)

    monkeypatch.setattr(Recipe, "_note", stop_once)
    done = False
    while not done:
        again = Recipe(tmp_path / "work", tmp_path / "weights")
        try:
            again.run()
            done = True
        except Stopped:
            pass
    assert len(stopped_at) == len(STAGES) - 1 + len(POCKET.adapters)
    for name in sorted(FILES):
        ours, theirs = (load_file(folder / name) for folder in (again.weights, finished.weights))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
        with safe_open(again.weights / name, "pt") as one, safe_open(finished.weights / name, "pt") as two:
            assert one.metadata() == two.metadata()


def test_a_half_written_stage_is_made_again(finished, tmp_path):
    """A kill while a stage is being written leaves a .part beside it, which nobody reads."""
    (tmp_path / "painted.safetensors.part").write_bytes(b"cut off")
    again = Recipe(tmp_path, finished.weights)
    again.make("pool")
    assert torch.equal(again.painted["features"], finished.painted["features"])


def test_work_made_with_other_settings_is_refused(finished, tmp_path, monkeypatch):
    work = tmp_path / "work"
    Recipe(work, finished.weights)
    Recipe(work, finished.weights)
    monkeypatch.setitem(POCKET.steps, "base", 4)
    with pytest.raises(ValueError, match="other settings.*delete the folder, or name another with --work"):
        Recipe(work, finished.weights)
    with pytest.raises(ValueError, match="in use for something else"):
        Recipe(finished.weights, finished.weights)


@pytest.mark.parametrize(("file", "stage"), [("pocket_base", "model"), ("taste_encoders/pocket/tower", "encoder")])
def test_work_of_other_weights_is_refused(finished, tmp_path, file, stage):
    """What the base painted, and how the encoder saw it, says nothing of another base or encoder."""
    weights = tmp_path / "weights"
    shutil.copytree(finished.weights, weights)
    path = weights / f"{file}.safetensors"
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    save_file({**tensors, name: tensors[name] * 2}, path, metadata)
    with pytest.raises(ValueError, match=rf"another {path.name} than that of .*name another with --work"):
        getattr(Recipe(finished.work, weights), stage)


def test_an_adapter_of_another_encoder_is_refused(finished, tmp_path):
    weights = tmp_path / "weights"
    shutil.copytree(finished.weights, weights)
    adapter = finished.adapter("pocket")
    adapter.config = replace(adapter.config, encoder_hash="0" * 64)
    adapter.save(weights / "adapters" / "pocket.safetensors")
    with pytest.raises(ValueError, match="encode the pairs"):
        Recipe(finished.work, weights).adapter("pocket")


def test_a_taste_encoder_of_another_tower_is_refused(finished, tmp_path):
    shutil.copytree(finished.weights, tmp_path / "weights")
    again = Recipe(finished.work, tmp_path / "weights")
    other = {**finished.taste_encoder.tower, "hash": "0" * 64}
    replace(finished.taste_encoder, tower=other).save(tmp_path / "weights" / "taste_encoders" / "pocket")
    with pytest.raises(ValueError, match="another tower.*made again"):
        again.prior  # noqa: B018


def test_the_taste_encoder_names_the_looks_of_its_statistics(finished):
    assert finished.taste_encoder.tower["hash"] == finished.encoder.weight_hash
    assert finished.looks.names == STATISTICS and finished.looks.readings.shape == (6, finished.prior.dim)
    assert finished.taste_encoder.made == {"people": 16, "kind": "simulated", "pictures": POCKET.sizes["pool"]}


def test_finished_weights_without_their_work_need_no_autoencoder_training(finished, tmp_path, monkeypatch):
    """The autoencoder is the base's own, so that a missing adapter is trained on latents that the base knows."""
    monkeypatch.setattr(recipe, "train_autoencoder", None)
    again = Recipe(tmp_path, finished.weights)
    again.make("latents")
    latents, scale = again.latents
    assert scale == finished.model.latent_scale
    torch.testing.assert_close(latents, finished.latents[0], rtol=0, atol=0.05)  # half precision against single


def test_evaluation_trains_what_it_compares_with_and_never_what_it_measures(finished, tmp_path, capsys):
    weights, missing = tmp_path / "weights", "baselines/pocket-population.safetensors"
    shutil.copytree(finished.weights, weights)
    (weights / missing).unlink()
    (weights / "adapters" / "pocket-seed2.safetensors").unlink()
    command = ["evaluate", "pocket", "--quick", "--people", "4", "--work", str(finished.work)]
    assert cli.main([*command, "--weights", str(weights)]) == 0
    torch.testing.assert_close(load_file(weights / missing), load_file(finished.weights / missing), rtol=0, atol=0)
    assert not (weights / "adapters" / "pocket-seed2.safetensors").exists()  # which --quick leaves out
    (weights / "adapters" / "pocket.safetensors").unlink()
    (weights / missing).unlink()
    assert cli.main([*command, "--weights", str(weights)]) == 2
    assert "There is no pocket.safetensors" in capsys.readouterr().err and not (weights / missing).exists()


def test_the_command_line_evaluates_the_weights_it_is_given(finished, tmp_path):
    file = tmp_path / "figures.json"
    command = ["evaluate", "pocket", "--quick", "--people", "4", "--work", str(finished.work), "--json", str(file)]
    assert cli.main([*command, "--weights", str(finished.weights)]) == 0
    digest = file_digest(finished.weights / "pocket_base.safetensors")[:16]
    assert json.loads(file.read_text())["settings"]["sha256"]["pocket_base.safetensors"] == digest


def test_a_finished_run_does_nothing(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.weights.rglob("*.safetensors")}
    Recipe(finished.work, finished.weights).run()
    assert before == {path: path.stat().st_mtime_ns for path in finished.weights.rglob("*.safetensors")}


def test_support_pairs_are_of_training_captions_and_query_captions_are_others(finished):
    names = [scene.caption for scene in scenes.SCENES]
    assert {names[i] for i in finished.pool.captions} == set(scenes.TRAINING_CAPTIONS)
    picks = finished.picks
    assert {names[i] for i in picks.caption} <= set(scenes.TRAINING_CAPTIONS)
    assert (finished.data.captions[picks.chosen] == picks.caption).all()
    assert (finished.data.captions[picks.rejected] == picks.caption).all()
    rng = np.random.default_rng(51)
    for number in range(2):
        support = draw_support(finished.pool, finished.people["training"], 4, rng)
        for i, count in enumerate((1, 2, 4)):
            expected = embed_people(finished.pool, support, finished.prior, count)
            torch.testing.assert_close(picks.embeddings[3 * number + i], expected)
        for person, row in enumerate(finished.pool.captions[support.chosen]):
            assert not set(row) & set(picks.caption[picks.person == person])
    assert np.bincount(picks.person).tolist() == [3] * 16


def test_adapters_belong_to_the_encoder_and_know_their_training(finished):
    posterior = load_encoder(finished.weights)
    for name, (personal, seed) in POCKET.adapters.items():
        adapter = finished.adapter(name)
        assert (adapter.config.encoder, adapter.config.encoder_hash) == (posterior.name, posterior.weight_hash)
        assert adapter.config.embedding_dim == finished.prior.dim
        training = adapter.config.training
        assert (training["personal"], training["seed"], training["steps"]) == (personal, seed, 2)
        assert training["gain"] in (1.0, 2.0)


def test_every_figure_is_measured(finished, tmp_path):
    report = evaluate.evaluate(finished, people=4)
    json.dumps(report)
    for figure in ("wins_vs_base", "wins_vs_population", "own_vs_other", "wins_vs_own_population"):
        assert report[figure].keys() == {"mean", "low", "high", "n", "ceiling"}
        assert 0 <= report[figure]["low"] <= report[figure]["mean"] <= report[figure]["high"] <= 1
        assert report[figure]["n"] == 4
    for figure in ("objects_f1_base", "objects_f1_personal"):
        assert report[figure].keys() == {"mean", "low", "high", "n", "ceiling"}
    assert list(report["by_pairs"]) == ["1", "2", "4"]
    assert report["by_pairs"]["4"]["mean"] == report["wins_vs_base"]["mean"]
    assert list(report["steering"]) == list(STATISTICS)
    assert [row["strength"] for row in report["strength"]] == [0.0, 1.0, 1.5]
    assert report["strength"][0]["wins_vs_base"]["mean"] == 0.5  # strength 0 is the base: all ties
    assert [row["weight"] for row in report["blend"]] == [0.0, 0.25, 0.5, 0.75, 1.0]
    looks = report["looks"]
    assert all(list(row) == list(STATISTICS) for row in looks["pictures"].values()) and len(looks["pictures"]) == 4
    assert list(looks["people"]) == ["2", "4"]
    assert 0 <= looks["people"]["4"]["sure_and_right"] <= 1
    assert report["settings"]["sha256"].keys() == FILES
    assert report["settings"]["guidance"] == 4.0 and report["settings"]["people"] == 4


def test_preview_colors_are_least_squares():
    rng = np.random.default_rng(0)
    latents = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    factors = rng.uniform(-0.1, 0.1, (4, 3)).astype(np.float32)
    colors = latents.permute(0, 2, 3, 1).numpy() @ factors + (0.1, 0.0, -0.1)
    pictures = np.repeat(np.repeat((colors + 1) * 127.5, 8, axis=1), 8, axis=2).clip(0, 255).round().astype(np.uint8)
    found, bias = preview_colors(latents, pictures)
    np.testing.assert_allclose(found, factors, atol=2e-3)
    np.testing.assert_allclose(bias, (0.1, 0.0, -0.1), atol=2e-3)


def test_the_second_world_is_made_by_the_same_recipe(finished, tmp_path, monkeypatch):
    """Base, classifier, units, taste encoder with the first world's tower, turbo; every figure of the model card."""
    small = ({"num_layers": 1, "num_attention_heads": 1}, {"num_hidden_layers": 1, "intermediate_size": 32})
    for config, values in zip((flow.FLOW_CONFIG, flow.FLOW_TEXT_CONFIG), small, strict=True):
        for name, value in values.items():
            monkeypatch.setitem(config, name, value)
    for settings, values in (
        (POCKET_FLOW.vae_config, {"width": 16, "fine_width": 8}),
        (POCKET_FLOW.steps, {"autoencoder": 3, "decoder": 2, "base": 3, "classifier": 3, "adapter": 2, "turbo": 2}),
        (POCKET_FLOW.sizes, {"pictures": 60, "decoded": 60, "pool": 60}),
    ):
        for name, value in values.items():
            monkeypatch.setitem(settings, name, value)
    weights = tmp_path / "weights"
    options = ["pocket-flow", "--work", str(tmp_path / "work"), "--weights", str(weights)]
    assert cli.main(["train", *options]) == 2  # the first world's tower is not there
    shutil.copytree(finished.weights / "taste_encoders", weights / "taste_encoders")
    assert cli.main(["train", *options]) == 0
    made = {path.relative_to(weights).as_posix() for path in weights.rglob("*.safetensors")}
    parts = {f"pocket_flow_{part}" for part in ("base", "classifier", "world", "turbo")}
    others = {"adapters/pocket-flow", "adapters/pocket-flow-seed2", "baselines/pocket-flow-population"}
    assert made - FILES == {f"{name}.safetensors" for name in parts | others | {"taste_encoders/pocket-flow/encoder"}}
    encoder = TasteEncoder.load(weights / "taste_encoders" / "pocket-flow")
    tower = open_tower(encoder.tower, weights / "taste_encoders" / "pocket-flow")
    assert encoder.tower["of"] == "pocket" and tower.weight_hash == finished.encoder.weight_hash
    figures = tmp_path / "figures.json"
    assert cli.main(["evaluate", *options, "--people", "3", "--json", str(figures)]) == 0
    report = json.loads(figures.read_text())
    assert report["words"].keys() == set(STATISTICS) and report["turbo"]["steps"] == 4
    assert report["settings"]["adapter_training"]["steps"] == 2 and report["mirror"]["shifts"].keys() == set(STATISTICS)
    assert report["turbo"]["personal"].keys() == {"1", "3"} and report["turbo"]["personal"]["1"]["wins_vs_turbo"]
    adapter = UserAdapter.load(weights / "adapters" / "pocket-flow.safetensors", family="qwen_image")
    assert isinstance(adapter, LowRankAdapter) and adapter.config.training["gain"] in (1.0, 2.0)
