"""Which pictures to choose the best from: the information against its definition, and what is never asked."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from ppd.grids import choice_information, grid, most_telling_choice
from ppd.pictures import Picture
from ppd.pocket.studio import load_encoder
from ppd.questions import Interview
from ppd.store import TasteStore


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_choice_that_is_certain_in_every_draw_tells_which_draw_it_was():
    values = torch.full((4, 4), -50.0).fill_diagonal_(50.0)
    torch.testing.assert_close(choice_information(values), torch.tensor(2.0))
    assert float(choice_information(torch.zeros(3, 100))) == pytest.approx(0, abs=1e-6)
    assert float(choice_information(values[:, :1])) == pytest.approx(0, abs=1e-6)  # theta is known


def test_pictures_that_are_apart_are_chosen_and_of_a_pair_of_twins_one():
    x = torch.tensor([[3.0, 0.0], [3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0], [0.1, 0.1]])
    rows, bits = most_telling_choice(x, torch.zeros(2), torch.eye(2), 4)
    assert set(rows) in ({0, 2, 3, 4}, {1, 2, 3, 4})
    assert most_telling_choice(x, torch.zeros(2), torch.eye(2), 2)[1] < bits < 2
    assert most_telling_choice(x[:2], torch.zeros(2), torch.zeros(2, 2), 4)[1] == pytest.approx(0, abs=1e-6)


def test_the_best_of_four_tells_more_than_four_drawn_at_random():
    x, covariance = draw(30, 8, seed=1), torch.eye(8) * 0.5
    best = most_telling_choice(x, torch.zeros(8), covariance, 4)[1]
    by_chance = [most_telling_choice(x[at : at + 4], torch.zeros(8), covariance, 4)[1] for at in range(0, 24, 4)]
    assert best > max(by_chance) + 0.1


@pytest.fixture
def store(tmp_path):
    return TasteStore(tmp_path / "store")


COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (10, 10, 10), (240, 240, 240), (120, 120, 120)]


def test_the_pictures_of_one_prompt_become_a_grid_until_one_is_left(store):
    aki, encoder = store.add_person("Aki").id, load_encoder()
    pictures = [Picture.from_image(Image.new("RGB", (32, 32), colour)) for colour in COLOURS]
    asked = [store.add_candidate(aki, "a lake", *pictures[at : at + 2]) for at in (0, 2, 4)]
    store.add_candidate(aki, "a hill", *pictures[:2])
    interview = Interview(store, encoder)

    def ask(size, passed=()):
        return grid(interview, aki, interview.ask(aki)[1], size, passed)

    prompt, found = ask(4)
    assert prompt == "a lake" and len(set(found)) == len(found) == 4
    assert {*found} <= {one.digest for one in pictures}
    assert ask(4) == (prompt, found)  # the same as long as nothing changes
    assert ask(4, [frozenset(found)]) is None
    assert len(ask(9)[1]) > 4
    store.pick(asked[0], "first", "r1")
    assert pictures[1].digest not in ask(9)[1]
    for candidate, verdict in ((asked[1], "skip"), (asked[2], "first")):
        store.pick(candidate, verdict, f"r{candidate}")
    assert ask(4) is None  # two are left, which are an ordinary question
