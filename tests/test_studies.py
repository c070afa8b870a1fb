"""Studies: what is planned, what a set holds, what a kill leaves, and whose set is refused."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from itertools import count as numbers

import pytest
import torch
from PIL import Image

from ppd.lexicon import Look, LookSide, read_lexicon
from ppd.pictures import Picture
from ppd.studies import Cell, continue_studies, disk_use, noise_of, open_studies, plan

MODEL = {"class": "SD15", "denoiser": "UNetModel", "config": "c" * 16, "weights": "a" * 16}
SAMPLING = {"steps": 20, "cfg": 7.0, "width": 64, "height": 64}
WARM = Look("cool-warm", "colour", LookSide("cool", "寒色", "cool"), LookSide("warm", "暖色", "warm"))
DARK = Look("dark-bright", "light", LookSide("dark", "暗い", "dark"), LookSide("bright", "明るい", "bright"))
CELLS = [Cell(WARM, "a dog", 3), Cell(DARK, "a cat", 4)]


def picture(*colour):
    return Picture.from_image(Image.new("RGB", (16, 16), colour))


def paint(folder, cells=CELLS, model=MODEL, sampling=SAMPLING):
    """Pictures that tell cell and side, written the way a host does it."""
    writer = continue_studies(folder, {cell.look.id: cell.look for cell in cells}.values(), model, sampling)
    painted = 0
    for cell in cells:
        for side, colour in (("low", (0, 0, cell.seed)), ("high", (255, 0, cell.seed))):
            if not writer.holds(cell.study, side):
                noise = noise_of(cell.seed, (1, 4, 2, 2))
                writer.add(cell, side, picture(*colour), noise / 2, noise)
                painted += 1
    return painted


def snapshot(folder):
    """What a set says and holds, apart from the time it was made."""
    studies = open_studies(folder)
    return [
        (entry.study, entry.prompt, entry.look, entry.side, entry.text, entry.picture.read(), entry.latent().tolist())
        for entry in sorted(studies.pictures, key=lambda entry: (entry.study, entry.side))
    ]


@pytest.mark.parametrize("count", [0, 1, 40, 85, 200, 1000])
def test_any_prefix_of_a_plan_is_balanced(count):
    lexicon = read_lexicon()
    looks = list(lexicon.looks.values())
    cells = plan(looks, lexicon.prompts, count, seed=1)
    assert len(cells) == count and len({cell.study for cell in cells}) == count
    times = Counter(cell.look.id for cell in cells)
    assert all(times[look.id] in (count // len(looks), -(-count // len(looks))) for look in looks)
    prompts = Counter(cell.prompt for cell in cells)
    assert max(prompts.values(), default=0) - min((prompts[p] for p in lexicon.prompts), default=0) <= 1 + count // 85
    assert len({cell.seed for cell in cells}) == count
    assert plan(looks, lexicon.prompts, count, seed=1) == cells == plan(looks, lexicon.prompts, 1000, seed=1)[:count]
    if count == 1000:
        assert {cell.seed for cell in cells} & {cell.seed for cell in plan(looks, lexicon.prompts, 85, seed=2)} == set()


def test_a_look_meets_every_prompt_before_one_comes_again_from_another_seed():
    prompts = [f"prompt {number}" for number in range(10)]
    cells = plan([WARM, DARK], prompts, 2 * 25, seed=0)
    of_one = [cell for cell in cells if cell.look is WARM]
    assert {cell.prompt for cell in of_one[:10]} == set(prompts) == {cell.prompt for cell in of_one[10:20]}
    assert len({cell.seed for cell in of_one}) == 25
    assert all(0 <= cell.seed < 2**53 for cell in cells)


def test_a_plan_of_a_few_cells_covers_many_subjects_and_categories():
    lexicon = read_lexicon()
    cells = plan(list(lexicon.looks.values()), lexicon.prompts, 20, seed=0)
    assert len({cell.look.category for cell in cells}) >= 9
    assert len({cell.prompt for cell in cells}) == 20
    with pytest.raises(ValueError, match="at least one look and one prompt"):
        plan([], lexicon.prompts, 1, 0)


def test_a_set_says_what_it_holds(tmp_path):
    folder = tmp_path / "mine"
    assert paint(folder) == 4
    studies = open_studies(folder)
    assert (studies.name, studies.model, studies.sampling, studies.missing) == ("mine", MODEL, SAMPLING, 0)
    assert studies.looks == {"cool-warm": WARM, "dark-bright": DARK}
    first, second = studies.pairs()
    assert (first.prompt, first.look, first.seed, first.plain) == ("a dog", "cool-warm", 3, None)
    assert (first.low.text, first.high.text) == ("a dog, cool", "a dog, warm")
    assert first.high.picture.open().getpixel((0, 0)) == (255, 0, 3)
    assert list(studies.pairs("dark-bright")) == [second] == studies.by_look()["dark-bright"]
    noise = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first.low.noise(), noise) and torch.equal(first.high.noise(), noise)
    assert torch.equal(first.low.latent(), (noise / 2).half().float())
    assert first.low.noise_from == "seed"


def test_the_picture_without_the_look_stands_beside_its_pair(tmp_path):
    paint(tmp_path / "mine")
    writer = continue_studies(tmp_path / "mine", [], MODEL, SAMPLING)
    writer.add(CELLS[0], "none", picture(9, 9, 9), torch.zeros(1, 4, 2, 2), noise_of(3, (1, 4, 2, 2)))
    first, second = open_studies(tmp_path / "mine").pairs()
    assert first.plain.text == "a dog" and second.plain is None


def test_noise_that_a_seed_does_not_give_again_is_stored(tmp_path):
    writer = continue_studies(tmp_path / "mine", [WARM], MODEL, SAMPLING)
    noise = torch.full((1, 4, 2, 2), 0.123456789)
    writer.add(CELLS[0], "low", picture(0, 0, 0), noise, noise)
    (entry,) = open_studies(tmp_path / "mine").pictures
    assert entry.noise_from == "stored" and torch.equal(entry.noise(), noise)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_kill_at_any_write_keeps_what_is_painted_and_a_second_run_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # what a process wrote outlives it without
    cells = CELLS[:1]
    paint(tmp_path / "whole", cells)
    expected = snapshot(tmp_path / "whole")
    kept_before = 0
    for kill_at in numbers(1):
        folder = tmp_path / f"killed {kill_at}"
        if child_painted_all(folder, cells, kill_at):
            break
        kept = len(open_studies(folder).pictures) if (folder / "studies.json").exists() else 0
        assert kept >= kept_before
        assert paint(folder, cells) == 2 - kept
        assert snapshot(folder) == expected
        assert not list(folder.rglob(".*.part"))
        kept_before = kept
    assert kept_before == 1 and kill_at > 20


def child_painted_all(folder, cells, kill_at):
    """Paints in a child process that dies at its n-th opening, renaming or cutting of a file; whether it came through.

    The child is forked, since a new one would load torch each time."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    left = iter(range(kill_at - 1))

    def kill(event, arguments):
        changes = event in ("os.rename", "os.truncate", "os.mkdir", "os.remove")
        if (changes or (event == "open" and "r" not in str(arguments[1]))) and next(left, None) is None:
            os._exit(9)

    sys.addaudithook(kill)
    paint(folder, cells)
    os._exit(0)


def test_a_row_cut_short_anywhere_costs_that_picture_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    folder = tmp_path / "mine"
    paint(folder)
    expected, rows = snapshot(folder), (folder / "studies.jsonl").read_bytes()
    last = rows[:-1].rfind(b"\n") + 1
    for length in range(last, len(rows), 7):
        (folder / "studies.jsonl").write_bytes(rows[:length])
        assert len(open_studies(folder).pictures) == 3
        assert paint(folder) == 1
        assert snapshot(folder) == expected
        assert (folder / "studies.jsonl").read_bytes() == rows


def test_a_deleted_picture_is_missing_and_painted_again(tmp_path):
    folder = tmp_path / "mine"
    paint(folder)
    expected = snapshot(folder)
    next(folder.glob("pictures/*/*-low.png")).unlink()
    assert open_studies(folder).missing == 1
    assert paint(folder) == 1
    assert snapshot(folder) == expected and open_studies(folder).missing == 0


def test_another_models_set_and_other_settings_are_refused(tmp_path):
    folder = tmp_path / "mine"
    paint(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError) as error:
        paint(folder, model={**MODEL, "weights": "b" * 16})
    assert str(error.value) == (
        "The studies 'mine' were painted by SD15 with the weights aaaaaaaa, and this MODEL is SD15 with the weights "
        "bbbbbbbb: choose another name, or load that model."
    )
    with pytest.raises(ValueError, match="were painted with steps 20, and now it is steps 8: choose another name"):
        paint(folder, sampling={**SAMPLING, "steps": 8})
    reworded = Look(WARM.id, "colour", LookSide("cool", "寒色", "icy"), WARM.high)
    with pytest.raises(ValueError, match=r"hold the look 'cool-warm' in other words \(cool / warm\)"):
        paint(folder, [Cell(reworded, "a dog", 3)])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_finished_pictures_have_a_set_of_their_own_or_join_a_painted_one(tmp_path):
    folder = tmp_path / "mine"
    writer = continue_studies(folder, [DARK])
    assert writer.add_finished(DARK, "a dog", None, picture(0, 0, 0), picture(255, 255, 255))
    assert not writer.add_finished(DARK, "a dog", None, picture(0, 0, 0), picture(255, 255, 255))
    assert open_studies(folder).model is None
    paint(folder)
    studies = open_studies(folder)
    assert studies.model == MODEL and len(studies.pictures) == 6
    given = next(studies.pairs())
    assert (given.seed, given.low.latent_file, given.low.noise()) == (None, None, None)
    with pytest.raises(ValueError, match="was not painted here and has no latent"):
        given.low.latent()


def test_what_is_no_set_or_damaged_says_so(tmp_path):
    with pytest.raises(ValueError, match="There are no studies in 'none': expected a folder with studies.json"):
        open_studies(tmp_path / "none")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "other.txt").write_text("x")
    with pytest.raises(ValueError, match="'mine' holds other things than studies: choose another name"):
        paint(folder)
    (folder / "other.txt").unlink()
    paint(folder)
    description, rows = folder / "studies.json", folder / "studies.jsonl"
    good = rows.read_text()
    for line in ("no json", "[]", '{"study": "x"}'):
        rows.write_text(f"{line}\n{good}")
        with pytest.raises(ValueError, match="Line 1 of mine/studies.jsonl is no study: remove that line"):
            open_studies(folder)
    row = json.loads(good.splitlines()[0])
    rows.write_text(json.dumps({**row, "picture": "../../secret.png"}) + "\n")
    with pytest.raises(ValueError, match="Line 1 of mine/studies.jsonl names a file outside of the set"):
        open_studies(folder)
    rows.write_text(json.dumps({**row, "look": "other"}) + "\n")
    with pytest.raises(ValueError, match="shows the look 'other', which studies.json does not describe"):
        open_studies(folder)
    for content, said in (
        ("{", "is damaged"),
        ('{"format": "x"}', "describes no studies"),
        ('{"format": "ppd-studies", "version": 2}', "are of version 2, expected 1"),
    ):
        description.write_text(content)
        with pytest.raises(ValueError, match=said):
            open_studies(folder)


def test_disk_use_is_about_what_is_written():
    assert disk_use(100, 1024, 1024, 4 * 128 * 128) == pytest.approx(100 * (1.8 * 2**20 + 2 * 2**16))
