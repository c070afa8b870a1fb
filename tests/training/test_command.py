"""`train adapter` from ordinary files (SD1.5), studies and their encoder to a picture by the adapter."""

from __future__ import annotations

import json
import signal
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from ppd.adapters import LowRankAdapter, UserAdapter
from ppd.cli import main
from ppd.encoders.encoder import TasteEncoder
from ppd.hosts.comfyui_base import find_comfyui, load_checkpoint
from ppd.pairs import read_pairs
from ppd.pictures import Picture
from ppd.studies import Cell, continue_studies
from ppd.training import adapter as adapter_training
from ppd.training import command
from ppd.training.strength import GAINS
from tests.conftest import write_example
from tests.server.model_files import write_checkpoint
from tests.training.study_sets import LOOKS

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    from ppd.hosts.comfyui_checkpoint import ComfyUICheckpoint
    from ppd.hosts.comfyui_studies import Painter, Sampling, model_signature

SAMPLING = Sampling(64, 64, 1, 1.0, "euler", "normal")
STEPS = {"--distillation-steps": 1, "--steps": 3, "--batch": 2, "--accumulate": 1}
NUMBERS = (0, 1, 3, 4, 5, 2, 6, 7, 14)
"""Of prompts: the last four are held out."""
FEW = {"--rank": 4, "--people": 12, "--measured-people": 2, "--strength-pictures": 2}


SETTINGS = {
    '{"stepps": 3}': "There is no 'stepps' among the settings: use distillation_steps, steps",
    '{"patience": 10.5}': "Expected a whole number from 1 to 1000000000 as patience, got 10.5.",
    '{"kind": "lora"}': "Expected low_rank or cross_attention as kind, got 'lora'.",
    '{"objective": {"contrast": "much"}}': "Expected a number from 0 to 1e+09 as the objective's contrast, got 'much'.",
    '{"objective": {"true_noise": 1}}': "Expected true or false as the objective's true_noise, got 1.",
    '{"objective": 3}': "Expected names and values as objective",
}


def edited(picture, light, warmth):
    """An IMAGE [H, W, 3], brighter and warmer."""
    return (picture + light + warmth * torch.tensor([1.0, 0.0, -1.0])).clamp(0, 1)


@pytest.fixture(scope="module")
def home(tmp_path_factory, comfyui_path):
    """A checkpoint of random weights at a tenth of SD1.5's width, and studies of looks that it would obey: its own
    pictures, one side of them darker or cooler."""
    home = tmp_path_factory.mktemp("home")
    write_checkpoint(home / "base.safetensors", "sd15", text_encoder=True)
    base = load_checkpoint(find_comfyui(), home / "base.safetensors")
    writer = continue_studies(home / "studies", LOOKS, model_signature(base.model), SAMPLING.as_json())
    painter = Painter(base.model, base.clip, base.vae, SAMPLING)
    with torch.inference_mode():
        for number in NUMBERS:
            picture, _, noise = painter.paint(f"prompt {number}", "", number, lambda step, foreseen: None)
            for index, look in enumerate(LOOKS):
                for side, sign in (("low", -0.2), ("high", 0.2)):
                    shown = edited(picture, sign * (index == 0), sign * (index == 1))
                    latent = base.vae.encode(shown[None])
                    writer.add(Cell(look, f"prompt {number}", number), side, Picture.from_tensor(shown), latent, noise)
    write_example(home / "pairs", seed=3, pairs=12)
    write_example(home / "few", seed=3, pairs=3)
    command = ["make-encoder", "--out", home / "encoder", "--tower", "pocket", "--studies", home / "studies"]
    assert main([str(part) for part in command]) == 0
    yield home
    (home / "base.safetensors").unlink()  # half a gigabyte


@pytest.fixture(scope="module", autouse=True)
def quick():
    """The checkpoint is read from its file in the first run alone, and few picks are watched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter_training, "WATCHED_PICKS", 8)
        patch.setattr(command, "load_checkpoint", lru_cache(command.load_checkpoint))
        yield


def train(home, out, *more, **changed):
    options = {"--base": home / "base.safetensors", "--studies": home / "studies", "--encoder": home / "encoder"}
    options |= {"--out": out, **STEPS, **FEW, **{f"--{name}": value for name, value in changed.items()}}
    return main(["train", "adapter", *(str(part) for option in options.items() for part in option), *map(str, more)])


@pytest.fixture(scope="module")
def trained(home, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "mine.safetensors"
    assert train(home, out, "--json", out.with_suffix(".json")) == 0
    return out


def test_a_run_leaves_a_file_its_figures_pictures_and_a_page(home, trained):
    folder = trained.with_suffix(".training")
    adapter = UserAdapter.load(trained)
    assert (adapter.config.kind, adapter.config.family) == ("cross_attention", "sd15")
    assert adapter.config.encoder_hash == TasteEncoder.load(home / "encoder").weight_hash
    figures = json.loads((folder / "report.json").read_text())
    assert adapter.config.training["report"] == figures
    measured = figures["held_out"]["simulated"]
    assert measured["people"] == 2 and measured["null_user_difference"] == 0.0
    assert 0.0 <= measured["own"]["low"] <= measured["own"]["mean"] <= measured["own"]["high"] <= 1.0
    assert 0.0 < measured["permutation_p"] <= 1.0 and figures["held_out"]["real"] is None
    assert len(measured["chosen_error_change_by_noise"]) == 4
    assert json.loads(trained.with_suffix(".json").read_text())["settings"]["steps"] == 3
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width == 8 + 5 * 264 and sheet.height > 2 * 256  # the base, two people and their opposites
    page = (folder / "report.html").read_text()
    assert "Measured on simulated people only" in page and "sheet.png" in page
    progress = json.loads((folder / "progress.json").read_text())
    assert (progress["state"], progress["step"], progress["of"]) == ("finished", 3, 3)
    with safe_open(trained, "pt") as file:
        assert all(file.get_tensor(name).dtype == torch.float16 for name in file.keys())  # noqa: SIM118
        assert str(home) not in json.dumps(file.metadata())


def test_the_file_holds_so_much_of_what_was_learned_as_people_want(home, trained, tmp_path):
    whole = tmp_path / "whole.safetensors"
    assert train(home, whole, **{"strength-pictures": 0}) == 0
    ours, theirs = (UserAdapter.load(path) for path in (trained, whole))
    strength = ours.config.training["report"]["strength"]
    assert theirs.config.training["report"]["strength"] is None
    shares = {float(gain): share for gain, share in strength["picked"].items()}
    assert list(shares) == list(GAINS)[: len(shares)] and strength["gain"] in shares
    assert all(0.0 < share < 1.0 for share in shares.values())
    for one, other in zip(ours.last_layers(), theirs.last_layers(), strict=True):
        torch.testing.assert_close(one, strength["gain"] * other, rtol=2e-3, atol=1e-6)
    assert "At strength 1, " in trained.with_suffix(".training").joinpath("report.html").read_text()


def test_the_adapter_paints_for_a_person(home, trained, monkeypatch):
    from ppd.studies import open_studies

    studies = open_studies(home / "studies")
    base = ComfyUICheckpoint(load_checkpoint(find_comfyui(), home / "base.safetensors"), studies)
    adapter = UserAdapter.load(trained)
    u = torch.ones(1, adapter.config.embedding_dim)
    read, encode = [], base.loaded.clip.encode_from_tokens_scheduled
    monkeypatch.setattr(
        base.loaded.clip, "encode_from_tokens_scheduled", lambda text: read.append(text) or encode(text)
    )
    plain, null, ours, other = (
        np.asarray(base.paint("a lake", 1, adapter, one)) for one in (None, 0 * u, 20 * u, -20 * u)
    )
    assert (plain == null).all() and (ours != plain).any() and (ours != other).any()
    assert len(read) == 2  # prompt and negative prompt, once for the four
    encoded = base.latents([next(iter(read_pairs(home / "pairs"))).chosen])
    assert encoded.shape == (1, 4, 8, 8)


@pytest.mark.slow  # the engine has its own: materials, latents, measure
def test_real_people_are_trained_on_beside_simulated_ones(home, tmp_path, capsys):
    out = tmp_path / "solo.safetensors"
    assert (
        train(
            home,
            out,
            "--solo",
            "--licence",
            "mine",
            "--pairs",
            home / "pairs",
            "--kind",
            "low_rank",
            **{"distillation-steps": 0, "steps": 1},
        )
        == 0
    )
    adapter = UserAdapter.load(out)
    assert isinstance(adapter, LowRankAdapter) and adapter.config.rank == 4
    assert adapter.config.training["report"]["real_people"]["people"] == 1
    assert "of 1 real person, licence: mine." in (tmp_path / "solo.training" / "report.html").read_text()
    left = {path.name for path in (tmp_path / "solo.training").iterdir()}
    assert "report.html" in left and not left & {"latents", "pictures", "texts"}  # of people's pictures


def test_a_rehearsal_says_what_it_costs_and_trains_nothing(home, tmp_path, capsys):
    out = tmp_path / "dry.safetensors"
    assert train(home, out, "--dry-run", "--gradient-checkpointing") == 0
    said = capsys.readouterr().out
    assert "36 pictures and 576 picks of simulated people are usable.\n" in said
    assert "GB with a batch of 2. Disk: " in said and " of figures and pictures)." in said
    assert not out.exists() and not list((tmp_path / "dry.training").glob("rehearsal*"))


@pytest.mark.slow  # the loop has its own
def test_a_stopped_run_goes_on_where_it_stopped(home, tmp_path, trained):
    from ppd.training import loop

    out, folder = tmp_path / "mine.safetensors", tmp_path / "mine.training"

    plain, taken = loop.Journal.record, []

    def record(self, *args, **more):
        taken.append(args[0])
        if len(taken) == 1 + 1:  # seen in the next step
            (folder / "STOP").touch()
        return plain(self, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Journal, "record", record)
        with pytest.raises(SystemExit, match="preferences: stopped by the file STOP after step 2 of 3"):
            train(home, out)
    assert not out.exists() and main(["train", "adapter", "--out", str(out), "--stop"]) == 2  # it has stopped
    assert train(home, out) == 0
    ours, theirs = (UserAdapter.load(path).state_dict() for path in (out, trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_rehearsal_takes_real_peoples_picks_alone_too_and_leaves_what_it_made_to_the_training(home, tmp_path):
    from ppd.training.picks import QueryPicks

    plain, shares = QueryPicks.draw, []

    def no_room(*_):
        raise torch.OutOfMemoryError  # for pictures, which the training does without

    def draw(self, rng, count):
        shares.append(self.real_share)
        return plain(self, rng, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QueryPicks, "draw", draw)
        patch.setattr(ComfyUICheckpoint, "paint", no_room)
        more = ("--dry-run", "--solo", "--pairs", home / "pairs", "--made", tmp_path / "made")
        assert train(home, tmp_path / "dry.safetensors", *more, **{"distillation-steps": 0}) == 0
    assert shares == [0.0] * 3 + [1.0] * 3
    assert {path.name for path in (tmp_path / "made").iterdir()} >= {"latents", "texts"}
    assert not {"latents", "pictures", "texts"} & {path.name for path in (tmp_path / "dry.training").iterdir()}


def test_sigterm_ends_a_run_between_its_steps_and_the_run_tells_so(home, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(command, "opened", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit, match="Interrupted; what was done is saved in"):
        train(home, tmp_path / "mine.safetensors")
    assert json.loads((tmp_path / "mine.training" / "progress.json").read_text())["state"] == "stopped"
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setenv("LOCAL_RANK", "1")  # of several, who may be gone, so that it waits for nobody
    monkeypatch.setattr(command, "opened", lambda *_: signal.default_int_handler(signal.SIGINT, None))
    with pytest.raises(SystemExit, match="Interrupted"):
        train(home, tmp_path / "other.safetensors")
    assert not (tmp_path / "other.training").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--batch", "0"), "Expected a whole number from 1 to 1000000000 as batch, got 0."),
        (("--end-percent", "2"), "Expected a number from 0.001 to 1 as end_percent, got 2.0."),
        (("--steps", "0", "--distillation-steps", "0"), "with none of both nothing is learned"),
        (("--solo",), "Training for one person needs their picks: name their folder with --pairs."),
        (("--solo", "--pairs", "{home}/few"), "takes 8 picks or more, all of that person"),
        (("--studies", "{home}/nothing"), "There are no studies in 'nothing'"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(home, tmp_path, capsys, more, said):
    assert train(home, tmp_path / "a.safetensors", *(part.format(home=home) for part in more)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_files_that_are_missing_taken_or_no_settings_are_refused(home, tmp_path, capsys, trained):
    def refused(*arguments):
        assert main(["train", "adapter", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "An adapter needs --base and --studies and --encoder" in refused("--out", tmp_path / "a.safetensors")
    assert "let it end so" in refused("--out", tmp_path / "a.pt")
    assert "There is no run in" in refused("--out", tmp_path / "a.safetensors", "--stop")
    assert train(home, trained) == 2
    assert "There is a file mine.safetensors already" in capsys.readouterr().err
    for said, expected in SETTINGS.items():
        (tmp_path / "settings.json").write_text(said)
        assert train(home, tmp_path / "a.safetensors", "--config", tmp_path / "settings.json") == 2
        assert expected in capsys.readouterr().err
    (tmp_path / "a.training").mkdir()
    (tmp_path / "a.training" / "progress.json").write_text('{"state": "stopped", "pid": 4194305}')
    assert "there is nothing to stop" in refused("--out", tmp_path / "a.safetensors", "--stop")
