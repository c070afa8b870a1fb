"""The workshop: a taste encoder out of studies, pictures and people, by a real tower, and what its folder says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ppd.encoders.encoder import TasteEncoder
from ppd.encoders.features import PictureFeatures
from ppd.encoders.towers import open_tower
from ppd.encoders.workshop import Materials, make_encoder, report_of, save_encoder
from ppd.lexicon import Look, LookSide
from ppd.pairs import PreferencePair
from ppd.pictures import Picture, PreferenceError, pictures_below
from ppd.pocket.studio import ENCODER
from ppd.studies import continue_studies, open_studies

REFERENCE = {"kind": "folder"}


def look(name, low, high):
    return Look(name, "light", LookSide(low, f"{low}側", low), LookSide(high, f"{high}側", high))


LOOKS = [look("dark-bright", "dark", "bright"), look("cool-warm", "cool", "warm"), look("old-new", "old", "new")]


def scene(seed, *, light=0.0, warmth=0.0):
    """A picture of blobs, brighter by `light` and warmer by `warmth`, both in 0..1's units."""
    rng = np.random.default_rng(seed)
    blobs = Image.fromarray(rng.integers(40, 216, (5, 5, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    moved = np.asarray(blobs, dtype=np.float32) / 255 + light + np.array([warmth, 0, -warmth])
    return Picture.from_image(Image.fromarray((moved.clip(0, 1) * 255).astype(np.uint8)))


def paint_studies(folder, prompts=8):
    """Studies of two looks that are obeyed and of one, "old-new", whose sides differ by chance alone."""
    writer = continue_studies(folder, LOOKS)
    for number in range(prompts):
        for index, one in enumerate(LOOKS):
            seed = 10 * number + index
            light, warmth = 0.25 * (index == 0), 0.25 * (index == 1)
            low, high = scene(seed, light=-light, warmth=-warmth), scene(seed, light=light, warmth=warmth)
            if index == 2:
                low, high = scene(seed), scene(seed + 5000)
            writer.add_finished(one, f"prompt {number}", seed, low, high)
    return open_studies(folder)


def people(count=14, pairs=14):
    """They like brighter pictures."""
    found = []
    for number in range(count * pairs):
        light = np.random.default_rng(number).uniform(-0.3, 0.3, 2)
        dark, bright = (scene(2 * number + side, light=value) for side, value in enumerate(sorted(light)))
        found.append(PreferencePair("a", bright, dark, str(number), user=f"person {number % count}"))
    return found


@pytest.fixture(scope="module")
def features(weights):
    return PictureFeatures(open_tower(REFERENCE, weights / ENCODER))


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    return paint_studies(tmp_path_factory.mktemp("studies") / "mine")


def test_looks_are_measured_as_painted_and_those_not_obeyed_are_named(features, studies, weights, tmp_path):
    encoder = make_encoder(features, REFERENCE, Materials(studies))
    assert encoder.looks.names == ("dark-bright", "cool-warm") and encoder.made["dropped_looks"] == ["old-new"]
    assert encoder.looks.japanese[0] == ("dark側", "bright側") and encoder.looks.reliability.min() >= 0.75
    report = report_of(encoder)
    assert report.splitlines()[0].startswith("48 pictures seen by pocket-clip; ")
    assert "1000 simulated people, who like one to three of the looks" in report
    assert "Dropped, since these studies do not show them reliably: old-new." in report
    save_encoder(encoder, tmp_path / "mine", weights / ENCODER)
    back = TasteEncoder.load(tmp_path / "mine")
    assert back.made == encoder.made and back.looks.names == encoder.looks.names
    assert report_of(back) == report
    size = sum((tmp_path / "mine" / name).stat().st_size for name in ("encoder.json", "encoder.safetensors"))
    assert size < 20_000
    reader = back.open(open_tower(back.tower, tmp_path / "mine"))
    bright = reader.encode(
        [PreferencePair("a", scene(n, light=0.3), scene(n, light=-0.3), str(n)) for n in range(900, 904)]
    )
    amounts = back.looks.amounts(bright.u[0] @ reader.prior.covariance)
    assert amounts[0] > abs(amounts[1])


def test_what_was_painted_is_compared_with_what_the_tower_reads(studies, weights):
    """A text side that reads "bright" as it was painted, and "warm" the other way round."""
    features = PictureFeatures(open_tower(REFERENCE, weights / ENCODER))
    plain = make_encoder(features, REFERENCE, Materials(studies))
    assert "words_agree" not in plain.made
    towards = torch.linalg.pinv(plain.prior.basis.double()).T @ plain.looks.steps.double().T  # features [f, k]
    signs = {"bright": (0, 1), "dark": (0, -1), "warm": (1, -1), "cool": (1, 1)}

    def text_side(texts):
        sides = [signs[text.rsplit(", ", 1)[1]] for text in texts]
        return torch.stack([sign * towards[:, look] for look, sign in sides])

    tower: Any = features.tower
    tower.text_side = text_side
    encoder = make_encoder(features, REFERENCE, Materials(studies))
    assert encoder.made["words_agree"] == {"dark-bright": 1.0, "cool-warm": -1.0}
    assert "cosine 0.00 in the median of the looks, least -1.00 of cool-warm" in report_of(encoder)


def test_real_people_make_the_prior_and_leave_no_name(features, tmp_path, weights):
    grid = [
        PreferencePair("a", scene(9000, light=0.3), scene(9000 + n, light=-0.3), f"{n}", user="person 3", choice="best")
        for n in range(1, 4)
    ]
    encoder = make_encoder(features, REFERENCE, Materials(pairs=people() + grid))
    made = encoder.made
    assert (made["people"], made["people_are"], made["picks"], made["study_pairs"]) == (14, "real", 197, 0)
    assert encoder.looks is None
    right = [
        float(encoder.prior.differences(*rows) @ encoder.prior.mean) > 0
        for rows in zip(
            features.picture_features([scene(n, light=0.2) for n in range(7000, 7020)]),
            features.picture_features([scene(n, light=-0.2) for n in range(7000, 7020)]),
            strict=True,
        )
    ]
    assert sum(right) >= 19
    save_encoder(encoder, tmp_path / "mine", weights / ENCODER)
    assert "person 3" not in (tmp_path / "mine" / "encoder.json").read_text()
    assert "14 real people with 197 picks" in report_of(encoder)


def test_soft_labels_of_people_make_weaker_tastes(features):
    """At .6 the log-odds of what people agree on are .41, where plain picks have no bound but the prior's."""
    votes = [replace(pair, probability=0.6) for pair in people()]
    plain, soft = (make_encoder(features, REFERENCE, Materials(pairs=pairs)).prior for pairs in (people(), votes))
    rows = [features.picture_features([scene(n, light=light) for n in range(7000, 7020)]) for light in (0.2, -0.2)]
    odds = [float((prior.differences(*rows) @ prior.mean).mean()) for prior in (plain, soft)]
    assert odds[0] > 1.0 and 0.1 < odds[1] < 0.7


def test_few_people_give_way_to_simulated_ones_and_it_is_said(features):
    encoder = make_encoder(features, REFERENCE, Materials(pairs=people(count=3, pairs=8)))
    assert encoder.made["people_are"] == "simulated" and encoder.prior.mean.norm() == 0
    assert "The pairs are of 3 people, fewer than 12." in report_of(encoder)
    assert "what the pictures vary most in, since there are no looks" in report_of(encoder)


def test_broken_pictures_are_left_out_and_counted(features, tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(scene(number).read())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "21.png").write_bytes(scene(21).read())
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "again.png").write_bytes(scene(0).read())
    pictures = pictures_below(tmp_path)
    assert len(pictures) == 22
    encoder = make_encoder(features, REFERENCE, Materials(pictures=pictures))
    assert (encoder.made["pictures"], encoder.made["pictures_left_out"]) == (20, 1)
    assert "Left out 1 picture that cannot be read." in report_of(encoder)
    json.dumps(encoder.made)


def test_pictures_outside_of_the_folder_and_none_at_all_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes(scene(0).read())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "link.png").symlink_to(tmp_path / "other" / "a.png")
    with pytest.raises(ValueError, match="no pictures in 'mine': expected .bmp, .gif"):
        pictures_below(tmp_path / "mine")


def test_what_cannot_be_made_is_said(features, studies, tmp_path):
    with pytest.raises(ValueError, match="at least 16 different pictures .* got 3"):
        make_encoder(features, REFERENCE, Materials(pictures=[scene(n) for n in range(3)] * 9))
    with pytest.raises(ValueError, match="Expected 1 to 48 dimensions, got 49"):
        make_encoder(features, REFERENCE, Materials(studies), most_dims=49)
    seldom = paint_studies(tmp_path / "few", prompts=4)
    with pytest.raises(ValueError, match="'few' have no look with 5 pairs, at most . of one: let Paint Studies"):
        make_encoder(features, REFERENCE, Materials(seldom))


def test_a_cancelled_making_goes_on_where_it_stopped(weights, studies, tmp_path):
    seen = []

    class Watched:
        """The tower, four pictures at a time, telling how many it looked at."""

        def __init__(self, tower):
            self.tower, self.name, self.batch = tower, tower.name, 4
            self.weight_hash, self.dim, self.prepare = tower.weight_hash, tower.dim, tower.prepare

        def features(self, prepared):
            seen.append(len(prepared))
            return self.tower.features(prepared)

    tower = Watched(open_tower(REFERENCE, weights / ENCODER))

    def cancel(done, total):
        if done >= 20:
            raise PreferenceError("cancelled")

    with pytest.raises(PreferenceError, match="cancelled"):
        make_encoder(PictureFeatures(tower, cache_dir=tmp_path), REFERENCE, Materials(studies), progress=cancel)
    looked = sum(seen)
    encoder = make_encoder(PictureFeatures(tower, cache_dir=tmp_path), REFERENCE, Materials(studies))
    assert looked >= 20 and sum(seen) == 48
    fresh = make_encoder(PictureFeatures(open_tower(REFERENCE, weights / ENCODER)), REFERENCE, Materials(studies))
    assert torch.allclose(encoder.prior.covariance, fresh.prior.covariance, atol=1e-4)
