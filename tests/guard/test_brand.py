"""Pictures against a guide: each rule's measure, outcomes, where it is broken, the report and the marks."""

from __future__ import annotations

import pytest
import torch

from ppd.encoders.looks import Looks
from ppd.guard.brand import check_brand, look_end, report_of
from ppd.guard.guide import Colour, Contrast, Free, Guide, LookRule, Object
from ppd.guard.marks import COLOURS, marked
from ppd.guard.probes import FixedProbe

BLUE, GREY = torch.tensor((63, 143, 196)) / 255, torch.full((3,), 0.5)


def picture(share=0.0, side=128):
    """Grey, with a blue band on top of that share of its height."""
    image = GREY.expand(side, side, 3).clone()
    image[: round(share * side)] = BLUE
    return image


def only(rule, image, **more):
    (verdict,) = check_brand(Guide("g", (rule,)), [image], **more)
    return verdict.results[0]


def corner_probe():
    """Sees a thing where the upper left quarter has red."""
    return FixedProbe(("ball",), lambda x: (x[:, 0, :64, :64] - x[:, 2, :64, :64]).amax((1, 2))[:, None] - 0.5, 128)


def test_colour_by_share_of_area():
    for share in (0.0, 0.25, 1.0):
        result = only(Colour("must", "#3f8fc4", 5, 0.2), picture(share))
        assert result.kept is (share > 0.2) and result.said == f"#3f8fc4 in {100 * share:.1f} % of the picture"
        assert only(Colour("never", "#3f8fc4", 5, 0.2), picture(share)).kept is (share <= 0.2)
    near = only(Colour("must", "#4593c8", 5, 0.2), picture(0.25))  # a delta E of 1.6 away
    assert near.kept and not only(Colour("must", "#4593c8", 1, 0.2), picture(0.25)).kept


def test_the_place_of_a_colour_and_the_same_verdict_at_any_size():
    result = only(Colour("never", "#3f8fc4", 5, 0.1), picture(0.25, side=1024))
    assert result.where.shape == (256, 256) and result.where[:64].all() and not result.where[64:].any()


def test_contrast_is_wcags_between_percentiles():
    image = torch.zeros(64, 64, 3)
    image[:, 32:] = 1.0
    assert only(Contrast("must", 21), image).said == "contrast 21.0" and only(Contrast("must", 20.9), image).kept
    assert not only(Contrast("must", 1.1), picture()).kept


def test_a_free_place_has_few_edges():
    image, rule = picture(), Free("must", (0.5, 0.0, 0.5, 0.5), 0.05)
    assert only(rule, image).kept
    image[70:, :60:4] = 1.0  # elsewhere
    assert only(rule, image).kept
    image[10:50, 70:120:4] = 1.0
    result = only(rule, image)
    assert not result.kept and result.where[:64, 64:].all() and result.where.sum() == 64 * 64
    assert only(Free("must", (0.98, 0.98, 0.02, 0.02), 0.0), picture(side=40)).kept


def test_an_object_and_where_it_is():
    image = picture()
    image[20:40, 20:40] = torch.tensor((1.0, 0.1, 0.1))
    result = only(Object("never", "a ball"), image, probe=corner_probe())
    assert (result.kept, result.said) == (False, "a ball is there")
    assert result.where.shape == (8, 8) and result.where[1, 1] and not result.where[4:].any()
    assert only(Object("must", "a ball"), image, probe=corner_probe()).kept
    missing = only(Object("should", "a ball"), picture(), probe=corner_probe())
    assert (missing.kept, missing.said, missing.where) == (False, "a ball is missing", None)


def test_where_a_thing_is_takes_no_more_of_a_large_picture():
    """65 pictures are looked at for it: of this one at 16 times the pixels of 512 a side, as many as of that."""
    image, seen, probe = picture(side=2048), [], corner_probe()
    image[320:640, 320:640] = torch.tensor((1.0, 0.1, 0.1))

    class Counting:
        @staticmethod
        def scores(pictures, words):
            seen.append(sum(one.shape[0] * one.shape[1] for one in pictures))
            return probe.scores(pictures, words)

    result = only(Object("never", "a ball"), image, probe=Counting())
    assert seen == [2048**2, 65 * 512**2]
    assert result.where[1, 1] and not result.where[4:].any()


def looks():
    steps = torch.eye(2, 3)
    words = (("weather", "light"), ("cold", "dark"), ("warm", "bright"))
    return Looks(*words, steps, steps, torch.ones(2), (("寒い", "暖かい"), ("暗い", "明るい")))


def test_looks_by_steps_and_either_end():
    known = {"looks": looks(), "amounts": lambda pictures: torch.tensor([[0.7, -0.4]] * len(pictures))}
    assert only(LookRule("must", "warm", 0.5), picture(), **known).kept
    assert not only(LookRule("must", "bright", 0.0), picture(), **known).kept
    assert not only(LookRule("never", "dark", 0.3), picture(), **known).kept
    assert only(LookRule("never", "dark", 0.5), picture(), **known).kept
    assert look_end(looks(), "暗い") == (1, -1.0) and look_end(looks(), "Warm") == (0, 1.0)
    with pytest.raises(ValueError, match="tells no look 'wet': expected one of cold, dark, warm, bright;"):
        only(LookRule("never", "wet", 0.5), picture(), **known)


def test_what_a_rule_needs_is_asked_for():
    with pytest.raises(ValueError, match="names a ball: choose what looks for"):
        only(Object("never", "a ball"), picture())
    with pytest.raises(ValueError, match="names the look warm: choose a taste encoder"):
        only(LookRule("never", "warm", 0.5), picture())


GUIDE = Guide("Sea", (Colour("must", "#3f8fc4", 5, 0.2), Contrast("should", 1.05), Colour("never", "#ff0000", 5, 0.01)))


def three():
    red = picture(0.5)
    red[100:, :50] = torch.tensor((1.0, 0, 0))
    return [picture(0.5), picture(1.0), red]


def test_outcomes_and_report():
    verdicts = check_brand(GUIDE, three())
    assert [verdict.outcome for verdict in verdicts] == ["passes", "warns", "stops"]
    assert report_of(GUIDE, verdicts).splitlines() == [
        "Sea: 3 pictures, passing 1, warned 1, stopped 1.",
        "1. must: at least 20 % of the picture in #3f8fc4 (delta E 5); kept by 3 of 3",
        "2. should: a contrast of 1.05 or more; kept by 2 of 3",
        "3. never: more than 1 % of the picture in #ff0000 (delta E 5); kept by 2 of 3",
        "Number 2 warns: 2 (contrast 1.0)",
        "Number 3 stops: 3 (#ff0000 in 8.5 % of the picture)",
    ]


def test_marks_are_at_the_place_and_in_the_outcomes_colour():
    verdicts = check_brand(GUIDE, three())
    images = [marked(picture, verdict) for picture, verdict in zip(three(), verdicts, strict=True)]
    for image, outcome in zip(images, ("passes", "warns", "stops"), strict=True):
        assert image.shape == (384, 384, 3)
        assert (image[0, 200] * 255).round().tolist() == list(COLOURS[outcome])
    unmarked = torch.from_numpy(three()[0].numpy().repeat(3, 0).repeat(3, 1))
    assert torch.allclose(images[0][10:-10, 10:-10], unmarked[10:-10, 10:-10], atol=1 / 255)
    red = [value / 255 for value in COLOURS["stops"]]
    assert torch.allclose(images[2][301, 75], torch.tensor(red), atol=1e-3)  # the upper edge of the red box
    assert torch.allclose(images[2][350, 75], torch.tensor((1.0, 0, 0)))  # inside it
