"""bfloat16 only where it is fast."""

from __future__ import annotations

import pytest
import torch

from ppd.precision import autocast, has_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("units", "expected"),
    [({"amx_bf16": True}, True), ({"avx512_bf16": True}, False), ({"avx512_f": True}, False), ({}, False)],
)
def test_a_cpu_computes_in_bfloat16_where_it_has_matrix_units_for_it(monkeypatch, units, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert has_bfloat16(CPU) is expected
    with autocast(CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if expected else torch.float32)


@pytest.mark.parametrize("units", [True, False])
def test_a_gpu_is_asked(monkeypatch, units):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: units and not including_emulation)
    assert has_bfloat16(torch.device("cuda")) is units


def test_other_devices_compute_in_float32():
    assert not has_bfloat16(torch.device("mps"))
