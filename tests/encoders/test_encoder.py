"""The taste encoder's folder: what it holds comes back, and what is damaged is refused in one sentence."""

import json
from dataclasses import replace

import pytest
import torch

from ppd.encoders.encoder import TasteEncoder
from ppd.encoders.looks import Looks
from ppd.encoders.population import PopulationPrior

HASH = "a" * 64


def encoder(looks=True):
    generator = torch.Generator().manual_seed(0)
    mean, center, basis = (torch.randn(*shape, generator=generator) for shape in ((3,), (5,), (5, 3)))
    prior = PopulationPrior(mean, 2 * torch.eye(3), center, basis, "tiny", HASH, noise=1.5)
    ones = torch.ones(1, 3)
    named = Looks(("light",), ("dark",), ("pale",), ones, ones / 3, torch.ones(1), (("暗い", "淡い"),), "rendered")
    return TasteEncoder(
        {"kind": "folder", "name": "tiny", "hash": HASH}, prior, named if looks else None, {"people": 7}
    )


@pytest.mark.parametrize("looks", [True, False])
def test_a_folder_holds_it_whole(tmp_path, looks):
    one = encoder(looks)
    one.save(tmp_path / "mine")
    back = TasteEncoder.load(tmp_path / "mine")
    for name in ("mean", "covariance", "center", "basis"):
        assert torch.equal(getattr(back.prior, name), getattr(one.prior, name)), name
    assert (back.prior.encoder, back.prior.encoder_hash, back.prior.noise) == ("tiny", HASH, 1.5)
    assert back.tower == one.tower and back.made == {"people": 7}
    assert sum(path.stat().st_size for path in (tmp_path / "mine").iterdir()) < 5000
    if not looks:
        assert back.looks is None
        return
    assert (back.looks.names, back.looks.low, back.looks.high) == (("light",), ("dark",), ("pale",))
    assert (back.looks.japanese, back.looks.measured) == ((("暗い", "淡い"),), "rendered")
    assert torch.equal(back.looks.readings, one.looks.readings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "There is no taste encoder at .*expected a folder with encoder.json"),
        ("{", "encoder.json of the taste encoder 'mine' is no JSON"),
        ("[]", "mine/encoder.json is no taste encoder: expected format 'ppd-taste-encoder', got None"),
        ({"version": "9"}, "'mine' is of version '9', expected '1': update"),
        ({"noise": -1}, r"'mine' is damaged .*number from 0 to 1e\+06 as pick noise, got -1"),
        ({"noise": 0}, "'mine' is damaged .*pick noise above 0, got 0"),
        ({"noise": float("inf")}, "'mine' is damaged .*as pick noise, got inf"),
        ("[" * 100_000, "encoder.json of the taste encoder 'mine' is no JSON"),
        ({"tower": {"kind": "folder", "name": "tiny", "hash": "b"}}, "do not belong together"),
        ({"noise": 10**400}, "'mine' is damaged .*as pick noise, got a huge number"),
        ({"made": 7}, "'mine' is damaged .*no names and values as tower, made and looks"),
        ({"tower": {}}, "'mine' is damaged .*lacks 'hash'"),
        ({"looks": {"names": ["a", "b"], "low": ["a"], "high": ["b"]}}, "'mine' is damaged .*Expected words"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(tmp_path, change, message):
    folder = tmp_path / "mine"
    encoder().save(folder)
    file = folder / "encoder.json"
    if change is None:
        file.unlink()
    else:
        file.write_text(change if isinstance(change, str) else json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        TasteEncoder.load(folder)


def test_overwriting_that_was_cut_short_is_told(tmp_path):
    """Its tensors new and its words old: looks would be named by others."""
    folder = tmp_path / "mine"
    encoder().save(folder)
    words = (folder / "encoder.json").read_bytes()
    one = encoder()
    replace(one, prior=replace(one.prior, mean=one.prior.mean + 1)).save(folder)
    (folder / "encoder.json").write_bytes(words)
    with pytest.raises(ValueError, match="'mine' is damaged .*do not belong together"):
        TasteEncoder.load(folder)
