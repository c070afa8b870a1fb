"""Looks: readings told apart from each other, steps and reliabilities against literal numbers, and their file."""

from dataclasses import replace

import pytest
import torch

from ppd.encoders.looks import Looks

NAMED = [("saturation", "muted", "vivid"), ("warmth", "icy", "warm")]
STEPS = torch.tensor([[3.0, 0.0, 0.0], [2.0, 2.0, 0.0]])


def studies(pairs=40, spread=0.3, steps=STEPS):
    """Pairs of two looks whose steps lie close to each other."""
    look = [index for index in range(len(steps)) for _ in range(pairs)]
    noise = torch.randn(len(look), 3, generator=torch.Generator().manual_seed(1))
    return steps[look] + spread * noise, look, [row % pairs for row in range(len(look))]


def of(differences, look, prompt, named=NAMED, **more):
    return Looks.from_differences(differences, look, named, prompt=prompt, **more)


def test_readings_tell_looks_apart_whose_steps_lie_close():
    looks, dropped = of(*studies())
    assert dropped == () and looks.names == ("saturation", "warmth") and looks.high == ("vivid", "warm")
    torch.testing.assert_close(looks.steps, STEPS, atol=0.2, rtol=0)
    torch.testing.assert_close(looks.readings @ STEPS.T, torch.eye(2), atol=0.1, rtol=0)
    assert (looks.reliability > 0.8).all()
    # The step of warmth by itself would read saturation as .75 of warmth
    assert STEPS[1] @ STEPS[0] / STEPS[1].square().sum() == 0.75
    torch.testing.assert_close(looks.amounts(STEPS[1] * 2), torch.tensor([0.0, 2.0]).double(), atol=0.2, rtol=0)


def test_a_look_that_the_model_does_not_obey_is_dropped_by_name():
    steps = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    looks, dropped = of(*studies(steps=steps), japanese=[("くすんだ", "鮮やか"), ("冷たい", "暖かい")])
    assert dropped == ("warmth",) and looks.names == ("saturation",)
    assert looks.japanese == (("くすんだ", "鮮やか"),)
    with pytest.raises(ValueError, match="tell none of the looks: paint more studies"):
        of(*studies(steps=torch.zeros(2, 3)))


def test_a_look_that_is_not_told_from_others_is_dropped_by_name():
    """Turning it always moves the same direction a little, which all other pairs move too, either way."""
    x, look, prompt = studies(steps=torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.6, 0.0]]), spread=0.2)
    other = [row for row, which in enumerate(look) if which == 0]
    x[other, 1] = torch.tensor([2.0, -2.0]).repeat(20)
    assert of(x, look, prompt)[1] == ("warmth",)


def test_known_amounts_make_readings_in_standard_deviations():
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(2))
    amounts = x @ torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 4.0]]).T
    looks = Looks.from_amounts(x, amounts, NAMED, prompt=list(range(400)), measured="by hand")
    torch.testing.assert_close(looks.readings, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]]), atol=0.1, rtol=0)
    assert (looks.reliability > 0.99).all() and looks.measured == "by hand"


def test_tensors_and_lists_give_the_looks_back():
    looks, _ = of(*studies(), japanese=[("くすんだ", "鮮やか"), ("冷たい", "暖かい")])
    read = Looks.from_tensors(looks.tensors(), looks.lists())
    for name in ("steps", "readings", "reliability"):
        assert torch.equal(getattr(read, name), getattr(looks, name))
    assert (read.names, read.low, read.high) == (looks.names, looks.low, looks.high)
    assert (read.japanese, read.measured) == (looks.japanese, "studies")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("a", "a")}, "different names, got a, a"),
        ({"low": ("a",)}, r"reliability \[k\] of looks, got \[\[2, 3\], \[2, 3\], \[2\]\]"),
        ({"readings": torch.tensor([[1.0, 0, 0], [0, 0, 0]])}, "do not tell warmth"),
        ({"steps": torch.full((2, 3), torch.nan)}, "do not tell saturation, warmth"),
    ],
)
def test_looks_that_are_none_are_refused(change, message):
    looks, _ = of(*studies())
    with pytest.raises(ValueError, match=message):
        replace(looks, **change)


def test_pairs_that_do_not_fit_are_named():
    x, look, prompt = studies()
    with pytest.raises(ValueError, match="got none of warmth"):
        of(x, [0] * len(x), prompt)
    with pytest.raises(ValueError, match=r"a look and a prompt each, got \[80, 3\], 80 and 3"):
        of(x, look, prompt[:3])
    with pytest.raises(ValueError, match="not finite: check the tower's features"):
        of(x * torch.inf, look, prompt)


def test_tensors_that_are_no_looks_are_named():
    looks, _ = of(*studies())
    tensors, lists = looks.tensors(), looks.lists()
    with pytest.raises(ValueError, match="lack look_steps"):
        Looks.from_tensors({k: v for k, v in tensors.items() if k != "look_steps"}, lists)
    for change, message in (
        ({"low": "b"}, 'a list of words as low, got "b"'),
        ({"high": [1]}, "a list of words as high"),
        ({"japanese": [["a"]]}, "two words of each look"),
    ):
        with pytest.raises(ValueError, match=message):
            Looks.from_tensors(tensors, lists | change)
