"""User adapters in ComfyUI: against the diffusers host, in every order of guidance, and beside other patches."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from ppd.adapters import CrossAttentionAdapter, UserAdapter
from ppd.pocket.base_file import read_base
from ppd.user_embedding import UserEmbedding, null_user

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    import comfy.hooks
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops
    import comfy.samplers
    import comfy.sd
    import comfy.supported_models
    import nodes
    from comfy.patcher_extension import WrappersMP
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    from ppd.branch import describe
    from ppd.hosts.comfyui import KEY, apply_user, manage_adapter
    from ppd.hosts.comfyui_denoisers import cross_attentions
    from ppd.hosts.comfyui_run import count_report
    from ppd.pocket.comfyui import load_pocket

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def model(pocket_base_file):
    return load_pocket(pocket_base_file)[0]


@pytest.fixture(scope="module")
def trained(weights):
    return UserAdapter.load(weights / "adapters" / "pocket.safetensors")


@pytest.fixture(scope="module")
def unet(pocket_base_file):
    """The same denoiser in diffusers."""
    from diffusers import UNet2DConditionModel

    base = read_base(pocket_base_file)
    unet = UNet2DConditionModel(**base.metadata["unet_config"])
    unet.load_state_dict(base.denoiser)
    return unet.eval().requires_grad_(False)


def variant(trained, **changes):
    """The adapter with another configuration, as itself and under ComfyUI's management."""
    adapter = copy.deepcopy(trained)
    adapter.config = replace(adapter.config, **changes)
    return adapter, manage_adapter(copy.deepcopy(adapter))


def person(trained, seed=0, scale=1.0):
    u = torch.randn(1, trained.config.embedding_dim, generator=torch.Generator().manual_seed(seed)) * scale
    return UserEmbedding(u, trained.config.encoder, trained.config.encoder_hash, pairs=4, created="2026-01-01")


def conditioning(seed, tokens=77):
    return [[torch.randn(1, tokens, 32, generator=torch.Generator().manual_seed(seed)), {}]]


POSITIVE, NEGATIVE, MIDDLE = 11, 12, 13


def noise(rows=2, size=16):
    return torch.randn(rows, 4, size, size, generator=torch.Generator().manual_seed(5))


@torch.inference_mode()
def evaluate(model, t=700, lists=("positive", "negative"), x=None, conds=None, apart=False):
    """What one evaluation inside a real sampling run gives for each of `lists` of conditions: denoised latents.

    `lists` are names in the guider's order of calling; `apart` leaves memory for one condition per call only.
    """
    x = noise() if x is None else x
    conds = conds or {"positive": conditioning(POSITIVE), "negative": conditioning(NEGATIVE)}
    sigma = model.model.model_sampling.sigma(torch.tensor(float(t)))
    found = []

    def probe(model_k, start, sigmas, extra_args, callback, disable):
        guider = model_k.inner_model
        given = [None if name is None else guider.conds[name] for name in lists]
        scaled = x * (sigma**2 + 1).sqrt()
        if apart:
            guider.model_patcher.get_free_memory = lambda device: 0
        options = extra_args["model_options"]
        steps = sigma.expand(len(x))
        found.extend(comfy.samplers.calc_cond_batch(guider.inner_model, given, scaled, steps, options))
        return start

    guider = Guider_DualCFG(model) if "middle" in conds else comfy.samplers.CFGGuider(model)
    guider.inner_set_conds(conds)
    sampler = comfy.samplers.KSAMPLER(probe)
    guider.sample(torch.zeros_like(x), torch.zeros_like(x), sampler, torch.stack([sigma, torch.tensor(0.0)]), seed=0)
    return found


@torch.inference_mode()
def expected(unet, adapter, u, strength=1.0, t=700, seed=POSITIVE, x=None, tokens=77):
    """What the diffusers host gives for one condition: u [B, N, d], zero rows for the base itself."""
    from ppd.hosts.diffusers import DiffusersHost

    x = noise() if x is None else x
    a = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)[t]
    sigma = float(((1 - a) / a).sqrt())
    context = conditioning(seed, tokens)[0][0].expand(len(x), -1, -1)
    with DiffusersHost(unet, adapter).personalized(u, strength):
        eps = unet(x, t, context).sample
    return x * (sigma**2 + 1) ** 0.5 - sigma * eps


@torch.inference_mode()
def sample(model, latents=1, seed=3, cfg=3.0, steps=2):
    latent = {"samples": torch.zeros(latents, 4, 16, 16)}
    (out,) = nodes.common_ksampler(
        model, seed, steps, cfg, "euler", "normal", conditioning(POSITIVE), conditioning(NEGATIVE), latent
    )
    return out["samples"]


def test_layers_are_in_the_adapters_order(model, trained):
    layers = cross_attentions(model.model.diffusion_model)
    assert [block[:2] for block in layers] == [
        ("input", 1),
        ("input", 3),
        ("output", 0),
        ("output", 1),
        ("output", 2),
        ("output", 3),
        ("middle", 0),
    ]
    assert tuple(layer.heads * layer.dim_head for layer in layers.values()) == trained.config.layers


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize("rule", ["none", "same"])
def test_same_denoiser_as_in_diffusers(model, unet, trained, rule, apart):
    adapter, managed = variant(trained, unconditional=rule)
    someone = person(trained)
    personal = apply_user(model, managed, [someone], 0.7)
    for lists in (
        ("positive", "negative"),
        (None, "negative"),
        ("positive", None),
        ("negative",),
        ("negative", "positive"),
    ):
        found = evaluate(personal, lists=lists, apart=apart)
        for name, got in zip(lists, found, strict=True):
            if name is None:
                continue
            u = someone.u[None] * (rule == "same" or name == "positive")
            seed = POSITIVE if name == "positive" else NEGATIVE
            torch.testing.assert_close(got, expected(unet, adapter, u, 0.7, seed=seed), **CLOSE)


def test_the_effect_is_not_small(model, trained):
    base, personal = evaluate(model), evaluate(apply_user(model, variant(trained)[1], [person(trained)]))
    assert (personal[0] - base[0]).abs().max() > 0.1
    assert torch.equal(personal[1], base[1])  # rule "none": guidance's unconditional rows are the base's


@pytest.mark.parametrize(
    ("t", "active"), [(600, True), (500, True), (499, False), (100, False), (899, True), (900, False)]
)
def test_the_window_of_timesteps_is_that_of_diffusers(model, unet, trained, t, active):
    adapter, managed = variant(trained, start_percent=0.1, end_percent=0.5)  # 499.5 <= t <= 899.1
    someone = person(trained)
    found = evaluate(apply_user(model, managed, [someone]), t=t)[0]
    torch.testing.assert_close(found, expected(unet, adapter, someone.u[None], t=t), **CLOSE)
    assert torch.equal(found, evaluate(model, t=t)[0]) != active


def test_rows_may_be_at_different_noise_levels(model, trained):
    someone = person(trained)
    personal = apply_user(model, variant(trained, end_percent=0.5)[1], [someone])
    x, levels = noise(), torch.tensor([700.0, 300.0])
    sigma = model.model.model_sampling.sigma(levels)

    def step(patched):
        found = []

        def probe(model_k, start, sigmas, extra_args, callback, disable):
            guider, options = model_k.inner_model, extra_args["model_options"]
            found.extend(
                comfy.samplers.calc_cond_batch(guider.inner_model, [guider.conds["positive"]], x, sigma, options)
            )
            return start

        guider = comfy.samplers.CFGGuider(patched)
        guider.set_conds(conditioning(POSITIVE), conditioning(NEGATIVE))
        with torch.inference_mode():
            guider.sample(x, x, comfy.samplers.KSAMPLER(probe), torch.tensor([1.0, 0.0]), seed=0)
        return found[0]

    base, found = step(model), step(personal)
    assert not torch.equal(found[0], base[0])
    assert torch.equal(found[1], base[1])


def test_several_people_in_one_batch(model, unet, trained):
    adapter, managed = variant(trained, unconditional="same")
    people = [person(trained, 1), null_user(person(trained)), person(trained, 2)]
    x = noise(4)
    found = evaluate(apply_user(model, managed, people), x=x)
    u = torch.stack([people[index].u for index in (0, 1, 2, 2)])
    for got, seed in zip(found, (POSITIVE, NEGATIVE), strict=True):
        torch.testing.assert_close(got, expected(unet, adapter, u, seed=seed, x=x), **CLOSE)
    assert torch.equal(found[0][1], evaluate(model, x=x)[0][1])  # the null user's row, bit for bit


def test_a_wrong_number_of_people_is_reported(model, trained, caplog):
    people = [person(trained, seed) for seed in range(3)]
    sample(apply_user(model, variant(trained)[1], people), latents=2)
    assert "3 people for 2 latents: the last 1 are not painted for." in caplog.text
    assert count_report(2, 4) == "There are 2 people for 4 latents: the last person gets the last 3."


@pytest.mark.parametrize("rule", ["none", "same"])
def test_area_conditioning(model, trained, rule):
    area = [[conditioning(21)[0][0], {"area": (8, 16, 4, 0), "strength": 1.0}]]
    conds = {"positive": [*conditioning(POSITIVE), *area], "negative": conditioning(NEGATIVE)}
    base = evaluate(model, conds=conds)
    personal = evaluate(apply_user(model, variant(trained, unconditional=rule)[1], [person(trained)]), conds=conds)
    assert not torch.allclose(personal[0][:, :, 4:12], base[0][:, :, 4:12], atol=1e-2)
    assert not torch.allclose(personal[0][:, :, :4], base[0][:, :, :4], atol=1e-2)
    # the negative list got a condition for the positive's area, which carries the positive's uuid
    assert torch.equal(personal[1], base[1]) == (rule == "none")


def test_other_guiders_orders_of_conditions(model, trained):
    names = ("negative", "middle", "positive")  # DualCFGGuider's: index 0 is the unconditional one
    conds = {"positive": conditioning(POSITIVE), "middle": conditioning(MIDDLE), "negative": conditioning(NEGATIVE)}
    base = evaluate(model, lists=names, conds=conds)
    found = evaluate(apply_user(model, variant(trained)[1], [person(trained)]), lists=names, conds=conds)
    assert [torch.equal(a, b) for a, b in zip(found, base, strict=True)] == [True, False, False]


@pytest.mark.parametrize("case", ["strength 0", "null user", "null users"])
def test_off_is_the_model_bit_for_bit(model, trained, case):
    null = null_user(person(trained))
    people = {"strength 0": [person(trained)], "null user": [null], "null users": [null, null]}[case]
    off = apply_user(model, variant(trained)[1], people, 0.0 if case == "strength 0" else 1.0)
    assert not off.wrappers and not off.get_additional_models()
    assert torch.equal(sample(off, latents=2), sample(model, latents=2))


def test_applying_changes_neither_the_model_nor_its_clones(model, trained):
    before = sample(model)
    one, two = (apply_user(model, variant(trained)[1], [person(trained, seed)]) for seed in (1, 2))
    first, second = sample(one), sample(two)
    assert not torch.equal(first, second)
    assert torch.equal(sample(one.clone()), first)
    assert torch.equal(sample(model), before)


def test_runs_do_not_add_up(model, trained):
    managed = variant(trained)[1]
    personal = apply_user(model, managed, [person(trained)])
    first = sample(personal)
    for _ in range(3):
        again = apply_user(model, managed, [person(trained)])
        assert torch.equal(sample(again), first)
        assert torch.equal(sample(personal), first)
    assert "patches" not in personal.model_options["transformer_options"]
    assert len(personal.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY)) == 1


def test_an_interrupted_run_leaves_nothing(model, trained, monkeypatch):
    personal = apply_user(model, variant(trained)[1], [person(trained)])
    first, base = sample(personal), sample(model)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(personal)
    assert torch.equal(sample(personal), first)
    assert torch.equal(sample(model), base)


def test_two_applications_act_together(model, trained):
    managed, someone = variant(trained)[1], person(trained)
    once = apply_user(model, managed, [someone], 1.0)
    twice = apply_user(apply_user(model, managed, [someone], 0.6), managed, [someone], 0.4)
    torch.testing.assert_close(evaluate(twice)[0], evaluate(once)[0], **CLOSE)


def test_the_adapter_is_loaded_with_the_model(model, trained):
    managed = variant(trained)[1]
    personal = apply_user(model, managed, [person(trained)])
    sample(personal)
    loaded = {one.model.model for one in comfy.model_management.current_loaded_models if one.model is not None}
    assert managed.model in loaded
    assert isinstance(managed.model.projector[0], comfy.ops.manual_cast.Linear)


def layers_of(model):
    return list(cross_attentions(model.model.diffusion_model).values())


def test_plain_and_folded_forms_agree(model, trained, monkeypatch):
    adapter = variant(trained, unconditional="same")[1]
    personal = apply_user(model, adapter, [person(trained, 1), person(trained, 2)])
    folded = evaluate(personal)
    monkeypatch.setattr(layers_of(model)[0].to_q, "input_scale", torch.tensor(1.0), raising=False)
    for plain, other in zip(evaluate(personal), folded, strict=True):
        assert not torch.equal(plain, other)
        torch.testing.assert_close(plain, other, **CLOSE)


def test_above_its_limit_the_fold_is_left_out(model, trained, monkeypatch):
    personal = apply_user(model, manage_adapter(trained), [person(trained)])
    folded = evaluate(personal)
    monkeypatch.setattr("ppd.hosts.comfyui_attention.FOLD_LIMIT", 0)
    plain = evaluate(personal)
    assert not torch.equal(folded[0], plain[0])
    torch.testing.assert_close(folded[0], plain[0], **CLOSE)


def lora(model, seed=0):
    """A LoRA on every to_q and to_out of the cross-attention."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in model.model.diffusion_model.state_dict().items():
        if "attn2.to_q.weight" in name or "attn2.to_out.0.weight" in name:
            key = f"diffusion_model.{name.removesuffix('.weight')}"
            tensors[f"{key}.lora_up.weight"] = torch.randn(weight.shape[0], 2, generator=generator) * 0.2
            tensors[f"{key}.lora_down.weight"] = torch.randn(2, weight.shape[1], generator=generator) * 0.2
    return tensors


def with_lora(unet, tensors, model):
    """diffusers' denoiser with the same LoRA merged into its weights."""
    from ppd.hosts.diffusers import cross_attentions as diffusers_layers

    merged = copy.deepcopy(unet)
    for path, attention in zip(paths_of(model), diffusers_layers(merged), strict=True):
        for name, linear in (("to_q", attention.to_q), ("to_out.0", attention.to_out[0])):
            key = f"diffusion_model.{path}.{name}"
            linear.weight.data += tensors[f"{key}.lora_up.weight"] @ tensors[f"{key}.lora_down.weight"]
    return merged


def paths_of(model):
    names = {layer: name for name, layer in model.model.diffusion_model.named_modules()}
    return [names[layer] for layer in layers_of(model)]


@pytest.mark.parametrize("partially_loaded", [False, True])
def test_a_lora_is_folded_in(model, unet, trained, partially_loaded):
    adapter, managed = variant(trained)
    tensors, someone = lora(model), person(trained)
    patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
    personal = apply_user(patched, managed, [someone])
    if partially_loaded:
        comfy.model_management.unload_all_models()
        personal.load(torch.device("cpu"), lowvram_model_memory=1)
    found = evaluate(personal)[0]
    comfy.model_management.unload_all_models()
    torch.testing.assert_close(found, expected(with_lora(unet, tensors, model), adapter, someone.u[None]), **CLOSE)


def test_weights_that_hooks_change_within_a_run(model, unet, trained):
    adapter, managed = variant(trained)
    tensors, someone = lora(model), person(trained)
    hooked = [[conditioning(POSITIVE)[0][0], {"hooks": comfy.hooks.create_hook_lora(tensors, 1.0, 0.0)}]]
    conds = {"positive": hooked, "negative": conditioning(NEGATIVE)}
    found = evaluate(apply_user(model, managed, [someone]), conds=conds)
    merged = with_lora(unet, tensors, model)
    torch.testing.assert_close(found[0], expected(merged, adapter, someone.u[None]), **CLOSE)
    torch.testing.assert_close(found[1], expected(unet, adapter, 0 * someone.u[None], seed=NEGATIVE), **CLOSE)
    comfy.model_management.unload_all_models()


def test_packs_that_repeat_rows_in_between(model, trained):
    """As comfyui-tooling-nodes does for regions: n comes twice, and the two outputs become one."""
    other = model.clone()
    other.set_model_attn2_patch(lambda n, c, v, extra: (torch.cat([n, n]), torch.cat([c, c]), torch.cat([v, v])))
    other.set_model_attn2_output_patch(lambda out, extra: out.chunk(2)[0])
    managed, someone = variant(trained)[1], person(trained)
    for base in (model, other):
        found = evaluate(apply_user(base, managed, [someone]))[0]
        torch.testing.assert_close(found, evaluate(apply_user(model, managed, [someone]))[0], **CLOSE)


def test_packs_that_replace_the_attention(model, trained):
    other = model.clone()
    other.set_model_attn2_replace(lambda q, k, v, extra: torch.zeros_like(q), "middle", 0)
    found = evaluate(apply_user(other, variant(trained)[1], [person(trained)]))[0]
    assert not torch.allclose(found, evaluate(other)[0], atol=1e-2)
    assert not torch.allclose(found, evaluate(apply_user(model, variant(trained)[1], [person(trained)]))[0], atol=1e-4)


def without_patches(executor, *args, **kwargs):
    """A pack that calls the denoiser with options of its own."""
    return executor(*args[:5], {k: v for k, v in args[5].items() if k != "patches"}, *args[6:], **kwargs)


def test_a_model_that_goes_around_the_patches_is_not_passed_as_personal(model, trained):
    other = model.clone()
    other.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "other", without_patches)
    with pytest.raises(RuntimeError, match="the picture is not personal"):
        sample(apply_user(other, variant(trained)[1], [person(trained)]))


def test_what_is_active_is_said(model, trained, caplog):
    adapter, managed = variant(trained, start_percent=0.0, end_percent=0.5)
    caplog.set_level("INFO", logger="ppd.hosts.comfyui")
    sample(apply_user(model, managed, [person(trained)]), steps=4)
    assert "Personal were 2 of 4 calls of the model, in 7 of 7 cross-attention layers." in caplog.text
    assert describe(adapter, [person(trained)], 0.8, cfg=5.0) == (
        "Paints for 4 picks at strength 0.8.\n"
        "(7 of 7 cross-attention layers; noise schedule from 0% to 50%; strength times cfg 5 = 4; "
        f"negative prompt: the model itself; read by pocket-clip; length of the taste {person(trained).u.norm():.2f}.)"
    )
    assert describe(adapter, [person(trained)], 0.0) == "Personalization is off: strength is 0."
    assert "null user" in describe(adapter, [null_user(person(trained))], 1.0)


def test_other_models_are_refused(model, trained):
    _, managed = variant(trained)
    unet_config = {**model.model.model_config.unet_config}
    for kind, config in (("SD15", comfy.supported_models.SD15), ("SD20", comfy.supported_models.SD20)):
        settings = config(unet_config)
        settings.unet_config.update(num_heads=4, num_head_channels=-1)
        base = comfy.model_base.BaseModel(settings)
        other = comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))
        with pytest.raises(ValueError, match=rf"The MODEL is {kind} .* is for the pocket model: load a model"):
            apply_user(other, managed, [person(trained)])

    class LikeIt(comfy.model_base.BaseModel):
        pass

    other = comfy.model_patcher.ModelPatcher(LikeIt(model.model.model_config), torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError, match="LikeIt"):
        apply_user(other, managed, [person(trained)], 0.0)


def test_other_adapters_are_refused(model, trained):
    config = replace(trained.config, layers=trained.config.layers[:-1])
    with pytest.raises(ValueError, match="7 cross-attention layers"):
        apply_user(model, manage_adapter(CrossAttentionAdapter(config)), [person(trained)])
    _, managed = variant(trained, family="flux")
    with pytest.raises(ValueError, match="this version runs sd15, sd2, sdxl, stable_cascade, pocket only"):
        apply_user(model, managed, [person(trained)])


def test_other_embeddings_are_refused(model, trained):
    _, managed = variant(trained)
    with pytest.raises(ValueError, match="encode the pairs"):
        apply_user(model, managed, [replace(person(trained), encoder="other", encoder_hash="1" * 64)])
    with pytest.raises(ValueError, match="no user embedding"):
        apply_user(model, managed, [])
    two = replace(person(trained), u=torch.randn(2, trained.config.embedding_dim))
    with pytest.raises(ValueError, match="expected one shape"):
        apply_user(model, managed, [person(trained), two])
