"""Text taste over 17 real classes of denoisers, through ComfyUI's own sampling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from .tiny_models import TINY, TOKENS, build, conditioning, latent, sample

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrappersMP

    import ppd.hosts.comfyui_text as host
    from ppd.hosts.comfyui_text import TextTaste, apply_text, token_means

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


@dataclass(frozen=True, eq=False)
class Tiny:
    """A family's MODEL, a taste for it (a random direction a fifth as long as a token), and the plain picture."""

    name: str
    model: ModelPatcher
    taste: TextTaste
    plain: torch.Tensor


@pytest.fixture(scope="module", params=TINY)
def tiny(request):
    model = build(request.param)
    taste = TextTaste({key: _direction(one) for key, one in _means(request.param, model).items()})
    return Tiny(request.param, model, taste, paint(request.param, model))


@torch.inference_mode()
def _means(name, model):
    return token_means(model, conditioning(name))


def _direction(like, seed=3, people=1):
    noise = torch.randn(people, *like.shape, generator=torch.Generator().manual_seed(seed))
    return 0.2 * noise / noise.norm(dim=-1, keepdim=True)


@torch.inference_mode()
def paint(name, model, *, cfg=4.0, batch=1, positive=None, steps=2):
    positive = conditioning(name) if positive is None else positive
    return sample(model, positive, conditioning(name, seed=1), latent(name, batch), cfg=cfg, steps=steps)


class Calls:
    """What the denoiser is given by each of its calls: its text, and which rows are of which list."""

    def __init__(self, model, monkeypatch):
        self.seen, self.others = [], []
        original = type(model.model).apply_model

        def watch(base, x, t, *args, c_crossattn=None, transformer_options=None, **kwargs):
            held = [] if c_crossattn is None else list(c_crossattn.chunk(len(transformer_options["cond_or_uncond"])))
            self.seen += list(zip(transformer_options["cond_or_uncond"], held, strict=True))
            self.others.append({key: value for key, value in kwargs.items() if torch.is_tensor(value)})
            given = {"c_crossattn": c_crossattn, "transformer_options": transformer_options, **kwargs}
            return original(base, x, t, *args, **given)

        monkeypatch.setattr(type(model.model), "apply_model", watch)

    def texts(self, which):
        return [text for index, text in self.seen if index == which]


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_the_words_change_the_picture_and_their_opposite_the_other_way(tiny, cfg):
    """Of a little, since random denoisers are far from linear."""
    plain = tiny.plain if cfg == 4 else paint(tiny.name, tiny.model, cfg=cfg)
    there, back = (
        paint(tiny.name, apply_text(tiny.model, replace(tiny.taste, strength=strength)), cfg=cfg) - plain
        for strength in (0.005, -0.005)
    )
    assert there.norm() > 1e-6 * plain.norm(), "nothing moved"
    assert torch.nn.functional.cosine_similarity(there.flatten(), back.flatten(), dim=0) < -0.9


def test_off_is_the_plain_picture_to_the_bit(tiny):
    nobody = {key: torch.zeros_like(direction) for key, direction in tiny.taste.directions.items()}
    for off in (replace(tiny.taste, strength=0.0), replace(tiny.taste, window=(0.5, 0.5)), TextTaste(nobody)):
        quiet = apply_text(tiny.model, off)
        assert off.is_off and not quiet.get_wrappers(WrappersMP.SAMPLER_SAMPLE, "ppd_text")
    assert torch.equal(paint(tiny.name, quiet), tiny.plain)
    missed = apply_text(tiny.model, replace(tiny.taste, window=(0.999, 1.0)))  # no step lies there
    assert torch.equal(paint(tiny.name, missed), tiny.plain)


def test_only_the_prompts_tokens_move_by_the_same_share_of_their_length(tiny, monkeypatch):
    name, model, taste = tiny.name, tiny.model, tiny.taste
    calls = Calls(model, monkeypatch)
    paint(name, model)
    plain, negative = calls.texts(0)[0], calls.texts(1)[0]
    count, others = len(calls.seen), calls.others[0]
    calls.seen.clear()
    paint(name, apply_text(model, taste))
    assert len(calls.seen) == count, "the denoiser was called more often"
    assert all(torch.equal(text, negative) for text in calls.texts(1)), "the negative prompt moved"
    moved = calls.texts(0)
    shares = (moved[0] - plain).norm(dim=-1) / plain.norm(dim=-1)
    real = plain.norm(dim=-1) > 0
    assert real.sum() == TOKENS
    torch.testing.assert_close(shares[real], torch.full_like(shares[real], 0.2), **CLOSE)
    assert torch.equal(moved[0][~real], plain[~real]), "padding moved"
    assert all(torch.equal(text, moved[0]) for text in moved)
    for key in others.keys() - taste.directions.keys():
        assert torch.equal(calls.others[-1][key], others[key]), f"{key} changed"


def test_a_prompt_is_moved_once_a_run_whatever_the_number_of_steps(tiny, monkeypatch):
    name, model, taste = tiny.name, tiny.model, tiny.taste
    times = []
    real = host.shifted
    monkeypatch.setattr(host, "shifted", lambda *args: times.append(1) or real(*args))
    personal = apply_text(model, taste)
    paint(name, personal, steps=3, cfg=1.0)
    assert len(times) == len(taste.directions)
    paint(name, personal, steps=1, cfg=1.0)
    assert len(times) == 2 * len(taste.directions), "a second run took the first one's tensors"


def test_a_window_acts_in_its_steps_only(tiny, monkeypatch):
    name, model, taste = tiny.name, tiny.model, tiny.taste
    calls = Calls(model, monkeypatch)
    paint(name, model, steps=4, cfg=1.0)
    plain = calls.texts(0)[0]
    calls.seen.clear()
    paint(name, apply_text(model, replace(taste, window=(0.0, 0.4))), steps=4, cfg=1.0)
    acted = [not torch.equal(text, plain) for text in calls.texts(0)]
    assert acted[0] and not acted[-1]
    assert sorted(acted, reverse=True) == acted


def test_people_of_a_batch_each_get_their_own(tiny):
    name, model, taste = tiny.name, tiny.model, tiny.taste
    both = TextTaste({key: _direction(one[0], seed=5, people=2) for key, one in taste.directions.items()})
    alone = [TextTaste({key: one[i : i + 1] for key, one in both.directions.items()}) for i in range(2)]
    together = paint(name, apply_text(model, both), batch=2, steps=1, cfg=1.0)
    for row, one in enumerate(alone):
        single = paint(name, apply_text(model, one), batch=2, steps=1, cfg=1.0)
        torch.testing.assert_close(together[row], single[row], **CLOSE)


def test_after_an_error_the_model_is_as_before(tiny, monkeypatch):
    def stop(*args, **kwargs):
        raise RuntimeError("stop")

    personal = apply_text(tiny.model, tiny.taste)
    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="stop"):
        broken.setattr(type(tiny.model.model), "_apply_model", stop)
        paint(tiny.name, personal)
    assert torch.equal(paint(tiny.name, tiny.model), tiny.plain)


@pytest.mark.parametrize("tiny", ["qwen_image"], indirect=True)
def test_two_tastes_in_a_row_both_act(tiny, monkeypatch):
    other = TextTaste({key: _direction(one[0], seed=9) for key, one in tiny.taste.directions.items()})
    calls = Calls(tiny.model, monkeypatch)
    paint(tiny.name, tiny.model, cfg=1.0)
    paint(tiny.name, apply_text(apply_text(tiny.model, tiny.taste), other), cfg=1.0)
    plain, moved = calls.texts(0)[0], calls.texts(0)[-1]
    steps = ((moved - plain) / plain.norm(dim=-1, keepdim=True))[0]
    expected = (tiny.taste.directions["c_crossattn"] + other.directions["c_crossattn"]).expand_as(steps)
    assert torch.nn.functional.cosine_similarity(steps, expected).min() > 0.97


@pytest.mark.parametrize("tiny", ["qwen_image", "anima", "sdxl"], indirect=True)
def test_masks_and_areas_keep_their_effect(tiny):
    """After one step each half of a picture is what its own prompt alone would paint, moved."""
    personal = apply_text(tiny.model, tiny.taste)
    left = torch.zeros(1, 8, 8)
    left[..., :4] = 1

    def painted(*prompts):
        return paint(tiny.name, personal, positive=[one for prompt in prompts for one in prompt], steps=1, cfg=1.0)

    close: dict[str, Any] = {"rtol": 0, "atol": 1e-5 * float(tiny.plain.abs().max())}
    first, second = painted(conditioning(tiny.name)), painted(conditioning(tiny.name, seed=7))
    masked = painted(conditioning(tiny.name, mask=left), conditioning(tiny.name, seed=7, mask=1 - left))
    torch.testing.assert_close(masked[..., :4], first[..., :4], **close)
    torch.testing.assert_close(masked[..., 4:], second[..., 4:], **close)
    area = painted(conditioning(tiny.name), conditioning(tiny.name, seed=7, area=(8, 4, 0, 0), strength=1.0))
    torch.testing.assert_close(area[..., 4:], first[..., 4:], **close)
    assert (area - first)[..., :4].norm() > 1e-2 * first.norm()


@pytest.mark.parametrize("tiny", ["qwen_image", "z_image", "lens", "ideogram4"], indirect=True)
def test_padding_that_a_mask_tells_stays(tiny, monkeypatch):
    mask = torch.ones(1, TOKENS, dtype=torch.long)
    mask[:, -2:] = 0
    padded = conditioning(tiny.name, attention_mask=mask)
    calls = Calls(tiny.model, monkeypatch)
    for model in (tiny.model, apply_text(tiny.model, tiny.taste)):
        paint(tiny.name, model, positive=padded, steps=1, cfg=1.0)
    plain, moved = calls.texts(0)
    assert [torch.equal(plain[:, i], moved[:, i]) for i in range(TOKENS)] == [False] * (TOKENS - 2) + [True] * 2


@pytest.mark.parametrize("tiny", ["qwen_image", "flux1"], indirect=True)
def test_the_negative_prompt_gets_the_opposite_where_asked(tiny, monkeypatch):
    calls = Calls(tiny.model, monkeypatch)
    for model in (tiny.model, apply_text(tiny.model, replace(tiny.taste, unconditional="opposite"))):
        paint(tiny.name, model, steps=1)
    steps = {which: calls.texts(which)[1] - calls.texts(which)[0] for which in (0, 1)}
    lengths = {which: calls.texts(which)[0].norm(dim=-1, keepdim=True) for which in (0, 1)}
    torch.testing.assert_close(steps[0] / lengths[0], -steps[1] / lengths[1], **CLOSE)


@pytest.mark.parametrize("tiny", ["sdxl"], indirect=True)
def test_another_texts_width_is_refused(tiny):
    wrong = TextTaste({"c_crossattn": torch.ones(1, 5)})
    with pytest.raises(
        ValueError, match="tokens have 48 values and those of the taste 5: give the words the same CLIP"
    ):
        paint(tiny.name, apply_text(tiny.model, wrong))


@pytest.mark.parametrize("tiny", ["sdxl"], indirect=True)
def test_a_denoiser_that_reads_no_tokens_is_told_what_to_do(tiny):
    class HiDreamO1Transformer(torch.nn.Module):
        pass

    model = tiny.model.clone()
    model.model = SimpleNamespace(diffusion_model=HiDreamO1Transformer(), model_config=tiny.model.model.model_config)
    with pytest.raises(ValueError, match="put the words that Taste to Text gives into the prompt"):
        apply_text(model, tiny.taste)
