"""Latents on disk: encoded once, whatever is killed, and read by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ppd.pictures import Picture
from ppd.training.latent_files import DIGEST, encoded
from ppd.training.rows import Stacked

from .study_sets import latent_of, scene

PICTURES = [scene(number) for number in range(40)]


class Encoder:
    """Counts what it encodes; the one of a picture at a time is there to tell the size."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, pictures: Sequence[Picture]) -> torch.Tensor:
        self.seen += [picture.digest for picture in pictures]
        return torch.cat([latent_of(picture) for picture in pictures])


def test_rows_are_those_of_the_pictures_and_are_encoded_once(tmp_path):
    encode = Encoder()
    latents, rows = encoded(PICTURES[:35], encode, tmp_path)
    assert len(encode.seen) == 35 + 1 and latents.shape == (35, 4, 8, 8)
    order = [7, 0, 34]
    expected = torch.cat([latent_of(PICTURES[n]) for n in order]).half()
    assert torch.equal(latents[torch.from_numpy(rows[order])], expected)

    again = Encoder()
    latents, rows = encoded(PICTURES[::-1], again, tmp_path)  # five more, in another order
    assert sorted(again.seen[1:]) == sorted(picture.digest for picture in PICTURES[35:])
    assert len(again.seen) == 6
    assert torch.equal(latents[torch.from_numpy(rows[:1])], latent_of(PICTURES[-1]).half())


def test_a_kill_loses_the_batch_under_way(tmp_path):
    """In the files of a process that is no longer there, too."""
    whole, _ = encoded(PICTURES, Encoder(), tmp_path / "whole")
    cut = tmp_path / "cut"
    encoded(PICTURES[:20], Encoder(), cut)
    for ending in ("f16", "txt"):
        (cut / f"4x8x8-0.{ending}").rename(cut / f"4x8x8-3.{ending}")
    with (cut / "4x8x8-3.f16").open("ab") as rows, (cut / "4x8x8-3.txt").open("a") as names:
        rows.write(b"\0" * 1000)  # rows whose digests were not written, the last one cut; and a cut digest
        names.write("a" * (DIGEST - 1))
    encode = Encoder()
    latents, rows = encoded(PICTURES, encode, cut)
    assert len(encode.seen) == 20 + 1
    assert torch.equal(latents[torch.from_numpy(rows)], whole[torch.arange(40)])


def test_digests_whose_rows_are_gone_are_encoded_again(tmp_path):
    encoded(PICTURES[:4], Encoder(), tmp_path)
    with (tmp_path / "4x8x8-0.f16").open("rb+") as rows:
        rows.truncate(2 * 2 * 4 * 8 * 8)  # two rows of half precision
    encode = Encoder()
    latents, rows = encoded(PICTURES[:4], encode, tmp_path)
    assert len(encode.seen) == 2 + 1
    assert torch.equal(latents[torch.from_numpy(rows)], torch.cat([latent_of(one) for one in PICTURES[:4]]).half())


def test_one_picture_twice_is_one_row(tmp_path):
    latents, rows = encoded([PICTURES[0], PICTURES[1], PICTURES[0]], Encoder(), tmp_path)
    assert len(latents) == 2 and rows.tolist() == [0, 1, 0]


def test_latents_of_another_size_lie_apart(tmp_path):
    encoded(PICTURES[:3], Encoder(), tmp_path)
    small, rows = encoded(PICTURES[:3], lambda pictures: torch.zeros(len(pictures), 4, 4, 4), tmp_path)
    assert small.shape == (3, 4, 4, 4) and rows.tolist() == [0, 1, 2]
    again = Encoder()
    assert encoded(PICTURES[:3], again, tmp_path)[0].shape == (3, 4, 8, 8) and len(again.seen) == 1


def test_rows_of_several_tensors_are_numbered_through():
    first, second = torch.arange(6.0).reshape(3, 2), torch.arange(6.0, 10.0).reshape(2, 2).half()
    both = Stacked((first, second))
    assert len(both) == 5 and both.shape == (5, 2)
    assert both[torch.tensor([4, 0, 3])].tolist() == [[8.0, 9.0], [0.0, 1.0], [6.0, 7.0]]
    assert np.array_equal(both[torch.arange(5)].numpy().ravel(), np.arange(10.0))
