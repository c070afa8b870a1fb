"""The profile encoder: transformers' own classes, tiny, against a generation by the library itself."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ppd.encoders.towers.vlm import LocalVLM
from ppd.encoders.vlm import AFTER, BEFORE, ProfileEncoder, ProfileWhitening, profile_in
from ppd.pairs import PreferencePair
from ppd.pictures import Picture, PreferenceError

from .towers.vlm_models import KINDS, write_vlm

pytest.importorskip("transformers")


def pair(number, **more):
    noise = np.random.default_rng(number).integers(0, 255, (2, 32, 32, 3), dtype=np.uint8)
    chosen, rejected = (Picture.from_image(Image.fromarray(pixels)) for pixels in noise)
    return PreferencePair(f"lake {number}", chosen, rejected, id=str(number), **more)


PAIRS = [pair(number) for number in range(3)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("vlm")
    return {kind: LocalVLM.from_folder(write_vlm(root / kind, kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def vlm(models):
    return models["qwen2_5_vl"]


def encoder_of(vlm, **settings):
    return ProfileEncoder(vlm, **{"longest": 5, "pairs": 2, **settings})


@pytest.mark.parametrize("kind", KINDS)
def test_u_is_the_mean_state_of_what_the_model_writes_of_the_pairs(models, kind):
    vlm = models[kind]
    encoder = encoder_of(vlm, layer=3)
    found = encoder.encode(PAIRS[:2])
    inputs = vlm.inputs(encoder.question(PAIRS[:2]))
    shown = (inputs["input_ids"] == vlm.image_token).sum()
    assert shown >= 4  # four pictures, each of at least a token
    out = vlm.model.generate(
        **inputs, do_sample=False, max_new_tokens=5, output_hidden_states=True, return_dict_in_generate=True
    )
    states = torch.cat([step[3][0, -1:] for step in out.hidden_states])
    torch.testing.assert_close(found.u, states.mean(0, keepdim=True))
    text = vlm.processor.tokenizer.decode(out.sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert encoder.profile(PAIRS[:2]) == profile_in(text.strip())
    assert (found.pairs, found.encoder, found.encoder_hash) == (2, f"{kind} profile", encoder.weight_hash)


def test_the_question_says_what_was_asked_for_and_which_picture_was_liked(vlm):
    asked = encoder_of(vlm).question(PAIRS[:2])
    text = "".join(part if isinstance(part, str) else "[picture]" for part in asked)
    assert text.startswith(BEFORE) and text.endswith(AFTER)
    assert "\nPair 2, painted for: lake 1\nLiked better: [picture]\nLiked less: [picture]" in text
    assert np.array_equal(np.array(asked[2]), np.array(PAIRS[0].chosen.open()))


def test_more_pairs_than_a_context_are_read_in_parts_that_weigh_as_their_pairs_do(vlm):
    encoder = encoder_of(vlm)
    faded = [*PAIRS[:2], replace(PAIRS[2], weight=0.5)]
    first, second = encoder.encode(PAIRS[:2]).u, encoder.encode(PAIRS[2:]).u
    done = []
    whole = encoder.encode(faded, progress=lambda *now: done.append(now))
    torch.testing.assert_close(whole.u, (2 * first + 0.5 * second) / 2.5)
    assert done == [(4, 6), (6, 6)] and encoder.profile(faded).count("\n\n") >= 1


def test_which_picture_was_liked_changes_u_and_a_tie_does_not(vlm):
    encoder = encoder_of(vlm)
    u = encoder.encode(PAIRS[:2]).u
    swapped = [replace(one, chosen=one.rejected, rejected=one.chosen) for one in PAIRS[:2]]
    assert (encoder.encode(swapped).u - u).abs().max() > 1e-3
    torch.testing.assert_close(encoder.encode([*PAIRS[:2], replace(PAIRS[2], tie=True)]).u, u)
    votes = [replace(one, probability=0.75) for one in PAIRS]
    halves = [replace(one, weight=0.5) for one in PAIRS]
    torch.testing.assert_close(encoder.encode(votes[:2] + PAIRS[2:]).u, encoder.encode(halves[:2] + PAIRS[2:]).u)


def test_nobody_is_the_middle_and_drawing_is_refused(vlm):
    nobody = encoder_of(vlm).encode([])
    assert nobody.u.shape == (1, 32) and nobody.pairs == 0 and not nobody.u.any()
    with pytest.raises(ValueError, match="how sure"):
        encoder_of(vlm).encode(PAIRS[:1]).draw(0)


def test_profile_and_embedding_of_the_same_pairs_are_one_reading(vlm):
    encoder = encoder_of(vlm)
    readings = []
    hook = vlm.model.get_input_embeddings().register_forward_hook(lambda *_: readings.append(1))
    encoder.encode(PAIRS[:2])
    count = len(readings)
    encoder.profile(PAIRS[:2])
    assert len(readings) == count > 0
    hook.remove()


def test_states_are_centred_and_whitened_by_a_saved_whitening(vlm, tmp_path):
    plain = encoder_of(vlm)
    whitening = ProfileWhitening(torch.randn(32), torch.randn(32, 4), plain.reader_hash)
    whitening.save(tmp_path / "w.safetensors")
    read = ProfileWhitening.load(tmp_path / "w.safetensors")
    encoder = encoder_of(vlm, whitening=read)
    u = encoder.encode(PAIRS[:2]).u
    torch.testing.assert_close(u, (plain.encode(PAIRS[:2]).u - whitening.center) @ whitening.basis)
    assert encoder.dim == 4 and encoder.encode([]).u.shape == (1, 4)
    assert encoder.weight_hash != plain.weight_hash == plain.reader_hash
    with pytest.raises(ValueError, match="profiles of another reader"):
        encoder_of(vlm, layer=1, whitening=read)
    ProfileWhitening(torch.full((32,), torch.nan), read.basis, read.reader_hash).save(tmp_path / "nan.safetensors")
    with pytest.raises(ValueError, match=r"nan\.safetensors is a damaged profile whitening: .*as 'center', got nan"):
        ProfileWhitening.load(tmp_path / "nan.safetensors")


def test_the_hash_differs_by_model_layer_pairs_and_length(models, vlm):
    changes = [{}, {"layer": 1}, {"pairs": 3}, {"longest": 6}, {"pixels": 900}]
    encoders = [encoder_of(vlm, **change) for change in changes] + [encoder_of(models["qwen3_vl"])]
    assert len({encoder.weight_hash for encoder in encoders}) == 6


def test_no_text_is_in_the_embeddings_file(vlm, tmp_path):
    encoder = encoder_of(vlm)
    embedding = encoder.encode(PAIRS[:2])
    embedding.save(tmp_path / "u.safetensors")
    data = (tmp_path / "u.safetensors").read_bytes()
    assert set(load_file(tmp_path / "u.safetensors")) == {"u"} and b"lake" not in data
    assert encoder.profile(PAIRS[:2]).encode() not in data


def test_a_picture_that_cannot_be_read_is_named_or_left_out(vlm):
    bad = replace(PAIRS[1], rejected=Picture(data=b"no picture"))
    with pytest.raises(PreferenceError, match="Pair '1', rejected"):
        encoder_of(vlm).encode([PAIRS[0], bad])
    skipped = []
    found = encoder_of(vlm).encode([PAIRS[0], bad], on_bad="skip", skipped=skipped)
    assert found.pairs == 1 and [error.pair_id for error in skipped] == ["1"]
    line = io.BytesIO()
    Image.new("RGB", (3000, 2)).save(line, "PNG")
    thin = replace(PAIRS[1], chosen=Picture(data=line.getvalue()))
    with pytest.raises(PreferenceError, match="Pair '1', chosen: .*at most 32 times as long as wide"):
        encoder_of(vlm).encode([thin])
    with pytest.raises(ValueError, match="one pair in a context"):
        encoder_of(vlm, pairs=0)


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        ("Pair 1: warmer.\nUser Profile: likes warm light.", "likes warm light."),
        ("user profile: a\nuser profile: b", "b"),
        ("cut before it came", "cut before it came"),
    ],
)
def test_the_profile_is_the_end_of_the_text(text, profile):
    assert profile_in(text) == profile
