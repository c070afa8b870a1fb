"""Random model files: read as they were written, the same each time, and with values along the heard words alone."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from benchmarks.random_models import LOUD, OPPOSITES, QUIET, directions_in, embed, hear, write_weights


class Tokenizer:
    """Each word a token of its own, between a start and an end."""

    start_token, end_token = 0, 1
    words = [word for both in OPPOSITES for word in both]

    def tokenizer(self, text):
        return {"input_ids": [0, 2 + self.words.index(text), 1]}


def like(**shapes):
    return {name.replace("__", "."): torch.empty(shape, device="meta").half() for name, shape in shapes.items()}


def test_a_file_is_read_as_it_was_drawn(tmp_path):
    weights = like(norm__weight=[8], proj__weight=[8, 64], proj__bias=[8], o_proj__weight=[64, 64])
    weights["steps"] = torch.arange(3)
    changes = {"proj.bias": lambda x: x.fill_(2)}
    read = []
    for name in ("a", "b"):
        write_weights(tmp_path / name, weights, changes, r"o_proj")
        read.append(load_file(tmp_path / name))
    assert all(torch.equal(read[0][name], read[1][name]) for name in weights)
    assert read[0]["steps"].tolist() == [0, 1, 2] and read[0]["norm.weight"].eq(1).all()
    assert read[0]["proj.bias"].eq(2).all()
    assert 0.8 < read[0]["proj.weight"].float().std() * 8 < 1.2
    assert 0.8 < read[0]["o_proj.weight"].float().std() * 8 / QUIET < 1.2


def test_opposite_words_are_heard_in_opposite_directions():
    table, values = torch.zeros(6, 64), torch.empty(32, 64)
    directions = directions_in("words", 64)
    embed(Tokenizer(), "", directions, table)
    hear(directions, 10, values)
    heard = table @ values.T / 10  # in the mean of ten tokens
    assert torch.equal(heard[2], -heard[3]) and torch.equal(heard[4], -heard[5])
    assert 0.5 * LOUD < heard[2].norm() / 32**0.5 < 1.5 * LOUD
    assert heard[:2].eq(0).all()
