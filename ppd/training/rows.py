"""Rows of several tensors as those of one, of which some may lie on disk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stacked:
    """Rows [n, ...] of several tensors, one after the other; of tensors on disk only the rows asked for are read."""

    parts: tuple[Tensor, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def shape(self) -> torch.Size:
        """[n, ...]."""
        return torch.Size((len(self), *self.parts[0].shape[1:]))

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows [b, ...] of the numbers `index` [b]."""
        ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)
        of = torch.bucketize(index, ends, right=True)
        rows = torch.empty(len(index), *self.shape[1:], dtype=self.parts[0].dtype)
        for number in of.unique().tolist():
            part, here = self.parts[number], of == number
            rows[here] = part[index[here] - (ends[number] - len(part))].to(rows)
        return rows
