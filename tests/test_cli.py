"""The command line: what it writes, and one sentence with exit code 2 when something given to it is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ppd import cli
from ppd.adapters import LowRankAdapter, LowRankConfig, Site
from ppd.cli import main
from ppd.encoders.encoder import embedding_hash
from ppd.lexicon import read_lexicon
from ppd.pairs import read_pairs
from ppd.pictures import Picture
from ppd.pocket import studio
from ppd.pocket.studio import load_encoder
from ppd.pocket.world import POCKET, POCKET_FLOW, WORLDS
from ppd.privacy import Guarantee
from ppd.studies import continue_studies
from ppd.user_embedding import UserEmbedding

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def pocket(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny random weights in place of the pack's own folder, and the one world that they have as the default."""
    monkeypatch.setattr(studio, "WEIGHTS", weights)
    monkeypatch.setattr(cli, "WORLDS", ("pocket", "pocket-flow"))
    return weights


@pytest.fixture(scope="module")
def people(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """User embedding files of the two example people."""
    encoder, folder = studio.load_encoder(weights), tmp_path_factory.mktemp("people")
    for name in ("warm", "calm"):
        encoder.encode(list(read_pairs(weights / "examples" / name))).save(folder / f"{name}.safetensors")
    return str(folder / "warm.safetensors"), str(folder / "calm.safetensors")


def sample(out: Path, *arguments: str) -> int:
    return main(["sample", "--prompt", "a quiet lake", "--steps", "2", "--out", str(out), *arguments])


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def only_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on standard error: one line, one sentence."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and lines[0].endswith("."), lines
    return lines[0]


def test_encode_writes_a_user_embedding_and_its_figures(pocket, tmp_path, capsys):
    out, figures = tmp_path / "new" / "me.safetensors", tmp_path / "other" / "figures.json"
    assert main(["encode", str(pocket / "examples" / "warm"), "--out", str(out), "--json", str(figures)]) == 0
    embedding = UserEmbedding.load(out)
    assert embedding.pairs == 4 and embedding.u.shape == (1, 6)
    assert embedding.covariance_factor is None
    assert json.loads(figures.read_text()) == {"file": str(out), "pairs": 4, "encoder": embedding.encoder}
    assert "4 pairs" in capsys.readouterr().out


def test_encode_by_a_taste_encoder_of_ones_own(pocket, people, tmp_path, capsys):
    own = shutil.copytree(pocket / studio.ENCODER, tmp_path / "taste encoders" / "mine")
    out, examples = tmp_path / "me.safetensors", str(pocket / "examples" / "warm")
    assert main(["encode", examples, "--out", str(out), "--encoder", str(own)]) == 0
    assert torch.equal(UserEmbedding.load(out).u, UserEmbedding.load(people[0]).u)
    capsys.readouterr()
    assert main(["encode", examples, "--out", str(out), "--encoder", str(tmp_path)]) == 2
    assert "There is no taste encoder at" in only_sentence(capsys)


def test_encode_stores_the_covariance_only_on_request(pocket, tmp_path):
    out = tmp_path / "me.safetensors"
    assert main(["encode", str(pocket / "examples" / "warm"), "--out", str(out), "--with-covariance"]) == 0
    assert UserEmbedding.load(out).covariance_factor is not None


def test_encode_hides_each_pick_behind_noise_on_request(pocket, tmp_path, capsys):
    out = tmp_path / "me.safetensors"
    command = ["encode", str(pocket / "examples" / "warm"), "--out", str(out)]
    assert main([*command, "--epsilon", "4", "--delta", "1e-6"]) == 0
    assert "; noise hides each single pick (epsilon 4, delta 1e-06)" in capsys.readouterr().out
    assert UserEmbedding.load(out).guarantee == Guarantee(4.0, 1e-6)
    assert main([*command, "--epsilon", "0"]) == 2
    assert "an epsilon of 0.01 to 100, got 0" in only_sentence(capsys)
    assert main([*command, "--epsilon", "4", "--with-covariance"]) == 2
    assert "has no covariance to save" in only_sentence(capsys)


def test_encode_names_a_broken_pair_and_skips_it_on_request(pocket, tmp_path, capsys):
    shutil.copytree(pocket / "examples" / "warm", tmp_path / "set")
    (tmp_path / "set" / "images" / "2-chosen.png").write_bytes(b"no picture")
    command = ["encode", str(tmp_path / "set"), "--out", str(tmp_path / "me.safetensors")]
    assert main(command) == 2
    assert "pair-2" in only_sentence(capsys)
    assert not (tmp_path / "me.safetensors").exists()
    assert main([*command, "--skip-bad"]) == 0
    assert UserEmbedding.load(tmp_path / "me.safetensors").pairs == 3


def test_encode_refuses_what_holds_no_pairs(pocket, tmp_path, capsys):
    command = ["encode", "--out", str(tmp_path / "me.safetensors")]
    assert main([*command, str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in only_sentence(capsys)
    assert main([*command, str(pocket / "examples" / "warm"), "--user", "nobody"]) == 2
    assert "pick at least one" in only_sentence(capsys)


def test_sample_paints_the_base_and_a_person(people, tmp_path):
    base, again, person, none = (tmp_path / f"{name}.png" for name in ("base", "again", "person", "none"))
    assert [sample(base), sample(again)] == [0, 0]
    assert sample(person, "--user", people[0], "--json", str(tmp_path / "figures.json")) == 0
    assert sample(none, "--user", people[0], "--strength", "0") == 0
    assert pixels(base).shape == (128, 128, 3)
    assert (pixels(base) == pixels(again)).all() and (pixels(base) == pixels(none)).all()
    assert (pixels(base) != pixels(person)).any()
    assert json.loads((tmp_path / "figures.json").read_text()) == {"file": str(person), "unknown_words": []}


def test_sample_paints_a_grid_of_strengths_and_blends(people, tmp_path):
    out = tmp_path / "grid.png"
    arguments = ["--user", people[0], "--blend-with", people[1], "--blend", "0,1", "--strength", "0,1"]
    assert sample(out, *arguments) == 0
    grid = pixels(out)
    assert grid.shape == (40 + 2 * 222 + 8, 8 + 2 * 200, 3)  # two rows and columns of 192 px with gaps and titles
    cells = [[grid[y : y + 192, x : x + 192] for x in (8, 208)] for y in (40, 262)]
    assert (cells[0][0] == cells[0][1]).all()  # at strength 0 everybody gets the base
    assert (cells[1][0] != cells[0][0]).any() and (cells[1][0] != cells[1][1]).any()


def test_encode_and_sample_by_default_are_of_the_same_shipped_world(tmp_path, monkeypatch):
    monkeypatch.undo()  # the shipped weights, both worlds
    me = tmp_path / "me.safetensors"
    assert main(["encode", str(studio.WEIGHTS / "examples" / "dark and bold"), "--out", str(me)]) == 0
    assert UserEmbedding.load(me).encoder_hash == embedding_hash(load_encoder(world=POCKET_FLOW).prior)
    assert sample(tmp_path / "a.png", "--prompt", "a boat by a lake", "--steps", "1", "--user", str(me)) == 0


def test_sample_names_words_that_the_pocket_does_not_know(tmp_path, capsys):
    figures = tmp_path / "figures.json"
    assert sample(tmp_path / "a.png", "--prompt", "a red dragon", "--json", str(figures)) == 0
    assert json.loads(figures.read_text())["unknown_words"] == ["dragon"]
    assert "dragon" in capsys.readouterr().err


def test_sample_refuses_an_embedding_of_another_encoder(people, tmp_path, capsys):
    embedding = UserEmbedding.load(people[0])
    other = UserEmbedding(embedding.u, "ViT-B-32", "0" * 64, pairs=4, created="2026-01-01")
    other.save(tmp_path / "other.safetensors")
    assert sample(tmp_path / "a.png", "--user", str(tmp_path / "other.safetensors")) == 2
    assert "ViT-B-32" in only_sentence(capsys)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--user", "missing.safetensors"], "missing.safetensors"),
        (["--adapter", "missing.safetensors"], "missing.safetensors"),
        (["--adapter", "PERSON"], "user adapter"),
        (["--blend-with", "PERSON"], "--user"),
        (["--user", "PERSON", "--blend-with", "PERSON", "--blend", "2"], "blend weight"),
        (["--steps", "0"], "steps"),
        (["--out", "picture.unknown"], "picture.unknown"),
    ],
)
def test_sample_says_what_is_wrong(arguments, said, people, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [people[0] if argument == "PERSON" else argument for argument in arguments]
    assert sample(tmp_path / "a.png", *arguments) == 2
    assert said in only_sentence(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["sample"], ["paint"], ["sample", "--prompt", "a", "--strength", "much"], []])
def test_wrong_usage_has_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("python -m ppd")


@pytest.fixture
def people_of_the_demo(monkeypatch):
    """Those of the tiny weights."""
    monkeypatch.setitem(WORLDS, "pocket", replace(POCKET, examples={"calm": {}, "warm": {}}))


def test_the_demo_is_a_contact_sheet_of_two_people(people_of_the_demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "DEMO_PROMPTS", ("a quiet lake", "a house"))
    figures = tmp_path / "figures.json"
    assert main(["demo", "--world", "pocket", "--out", str(tmp_path / "demo"), "--json", str(figures)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == [
        "Opening pocket and reading two people's picks",
        "Painting 2 prompts for both",
        "painted 1 of 2",
    ]
    report = json.loads(figures.read_text())
    assert report["people"] == ["calm", "warm"]
    sheet = pixels(tmp_path / "demo" / "demo.png")
    assert sheet.shape == (40 + 2 * 222 + 8, 8 + 2 * 208 + 4 * 200, 3)
    left = 8 + 2 * 208
    columns = [sheet[40:232, left + 200 * i : left + 200 * i + 192] for i in range(4)]
    assert all((a != b).any() for i, a in enumerate(columns) for b in columns[:i])


def test_the_demo_without_examples_says_so(people_of_the_demo, tmp_path, capsys, pocket, monkeypatch):
    empty = tmp_path / "weights"
    shutil.copytree(pocket, empty, ignore=shutil.ignore_patterns("examples"))
    monkeypatch.setattr(studio, "WEIGHTS", empty)
    assert main(["demo", "--world", "pocket", "--out", str(tmp_path / "demo")]) == 2
    assert "calm" in only_sentence(capsys)


def test_evaluation_needs_weights(tmp_path, capsys):
    weights = tmp_path / "typo"
    assert main(["evaluate", "pocket", "--weights", str(weights), "--work", str(tmp_path / "work")]) == 2
    assert f"no weights to measure in {weights}" in only_sentence(capsys)
    assert not weights.exists()


def test_evaluation_needs_two_people(tmp_path, capsys):
    assert main(["evaluate", "pocket", "--people", "1", "--work", str(tmp_path / "work")]) == 2
    assert "at least 2 people" in only_sentence(capsys)


def test_lora_writes_a_file_and_says_where_it_differs(people, tmp_path, capsys):
    person, out = UserEmbedding.load(people[0]), tmp_path / "taste.safetensors"
    config = LowRankConfig(
        family="krea2",
        encoder=person.encoder,
        encoder_hash=person.encoder_hash,
        embedding_dim=person.dim,
        sites=(Site("blocks.0.attn.wq", 0, 4, 4), Site("blocks.1.attn.wq", 1, 4, 4)),
        end_percent=0.5,
    )
    LowRankAdapter(config).save(tmp_path / "adapter.safetensors")
    arguments = ["lora", "--user", people[0], "--adapter", str(tmp_path / "adapter.safetensors"), "--out", str(out)]
    assert main([*arguments, "--strength", "0.5", "--json", str(tmp_path / "figures.json")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: LoRA for krea2, 2 layers, at strength 0.5",
        "It acts in the whole noise schedule, the adapter from 0% to 50% of it.",
        "It acts on negative prompts too, which the adapter leaves alone: above cfg 1 it is the weaker one.",
    ]
    assert json.loads((tmp_path / "figures.json").read_text())["layers"] == 2
    assert len(load_file(out)) == 4
    assert main([*arguments, "--strength", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: This LoRA would change nothing (strength is 0): choose")
    assert main([*arguments[:-1], str(tmp_path / "taste.pt")]) == 2
    assert "Expected a .safetensors file as --out, got taste.pt" in capsys.readouterr().err


def test_training_that_is_stopped_ends_with_the_sentence_that_says_how_to_go_on(tmp_path, monkeypatch):
    from ppd.pocket.recipe import Recipe
    from ppd.training.control import Stopped

    def stopped(recipe):
        raise Stopped.by("base", 3, 10, "the file STOP", recipe.work / "base.pt")

    monkeypatch.setattr(Recipe, "run", stopped)
    with pytest.raises(SystemExit, match="base: stopped by the file STOP after step 3 of 10, all is saved"):
        main(["train", "pocket", "--work", str(tmp_path)])


def test_the_module_runs_and_its_help_loads_no_torch():
    code = "import runpy, sys; sys.argv = ['ppd', '--help']\ntry: runpy.run_module('ppd', run_name='__main__')\n"
    code += "except SystemExit as stopped: print('code', stopped.code, 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("code 0 False"), done.stdout + done.stderr
    assert all(command in done.stdout for command in ("demo", "encode", "sample", "train", "evaluate"))


def test_studies_says_what_a_set_holds(tmp_path, capsys):
    picture = [Picture.from_image(Image.new("RGB", (8, 8), colour)) for colour in ("red", "blue")]
    look = read_lexicon().looks["cool-warm"]
    continue_studies(tmp_path / "mine", [look]).add_finished(look, "a dog", 1, *picture)
    assert main(["studies", str(tmp_path / "mine"), "--json", str(tmp_path / "figures.json")]) == 0
    assert capsys.readouterr().out == "mine: 1 pair of 1 look on 1 prompt, 2 pictures.\n"
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures == {"pictures": 2, "missing": 0, "model": None, "pairs": {"cool-warm": 1}}
    assert main(["studies", str(tmp_path)]) == 2
    assert "There are no studies in" in only_sentence(capsys)


def paint_folder(folder: Path, count: int = 20) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        blobs = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        blobs.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def test_make_encoder_writes_a_taste_encoder_that_reads_pairs(pocket, tmp_path, capsys):
    from ppd.encoders.encoder import TasteEncoder
    from ppd.encoders.towers import open_tower

    out, pictures = tmp_path / "models" / "mine", paint_folder(tmp_path / "painted")
    command = ["make-encoder", "--out", str(out), "--tower", "pocket", "--pictures", str(pictures)]
    assert main([*command, "--dims", "4", "--json", str(tmp_path / "made.json")]) == 0
    assert "20 pictures seen by pocket-clip; 2 dimensions" in capsys.readouterr().out
    made = json.loads((tmp_path / "made.json").read_text())
    assert (made["pictures"], made["people_are"], made["dimensions"]) == (20, "simulated", 2)
    encoder = TasteEncoder.load(out)
    reader = encoder.open(open_tower(encoder.tower, out))
    assert reader.encode(list(read_pairs(pocket / "examples" / "warm"))).u.shape == (1, 2)
    assert main(command) == 2
    assert "There is a folder mine already" in only_sentence(capsys)


def test_make_encoder_says_what_it_lacks(pocket, tmp_path, capsys):
    command = ["make-encoder", "--out", str(tmp_path / "mine")]
    few = paint_folder(tmp_path / "few", 3)
    for arguments, sentence in (
        (["--tower", "ViT-B-32", "--pictures", str(few)], "The tower ViT-B-32 needs weights"),
        (["--tower", "pocket", "--pictures", str(few)], "at least 16 different pictures"),
        (["--tower", "pocket", "--studies", str(few)], "There are no studies in 'few'"),
        (["--tower", "pocket"], "at least 16 different pictures to make a taste encoder of, got 0"),
    ):
        assert main([*command, *arguments]) == 2
        assert sentence in only_sentence(capsys)
    assert not (tmp_path / "mine").exists()
