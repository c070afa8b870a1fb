"""The taste encoder's folder: what it holds comes back, and what is damaged is refused in one sentence."""

import json

import pytest
import torch

from ppd.encoders.encoder import TasteEncoder
from ppd.encoders.population import PopulationPrior
from ppd.encoders.probes import AttributeProbes
from ppd.encoders.towers import open_tower

HASH = "a" * 64


def encoder(looks=True):
    generator = torch.Generator().manual_seed(0)
    mean, center, basis = (torch.randn(*shape, generator=generator) for shape in ((3,), (5,), (5, 3)))
    prior = PopulationPrior(mean, 2 * torch.eye(3), center, basis, "tiny", HASH, noise=1.5)
    named = AttributeProbes(("light",), ("dark",), ("pale",), torch.ones(1, 5), "tiny", HASH)
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
    assert back.looks is None if not looks else (back.looks.names, back.looks.low) == (("light",), ("dark",))
    assert sum(path.stat().st_size for path in (tmp_path / "mine").iterdir()) < 5000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "There is no taste encoder at .*expected a folder with encoder.json"),
        ("{", "encoder.json of the taste encoder 'mine' is no JSON"),
        ("[]", "mine/encoder.json is no taste encoder: expected format 'ppd-taste-encoder', got None"),
        ({"version": "9"}, "'mine' is of version '9', expected '1': update"),
        ({"noise": -1}, "'mine' is damaged .*pick noise above 0"),
        ({"tower": {"kind": "folder", "name": "tiny", "hash": "b"}}, "belong to different towers"),
        ({"tower": {}}, "'mine' is damaged .*lacks 'hash'"),
        ({"looks": {"names": ["a", "b"], "low": ["a"], "high": ["b"]}}, "'mine' is damaged .*a name, a low"),
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


def test_a_tower_of_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected a tower of kind .* got 'tea leaves': update"):
        open_tower({"kind": "tea leaves"}, tmp_path)
