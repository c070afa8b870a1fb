from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from ppd.adapters import CrossAttentionAdapter, CrossAttentionConfig, LowRankAdapter, LowRankConfig
from ppd.hosts.diffusers import DiffusersHost, cross_attentions, guidance_rows, linear_sites
from ppd.training.dpo import denoising_error, diffusion_dpo_loss

DIM = 6


@pytest.fixture
def unet():
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    return model.requires_grad_(False).eval()


def make_adapter(unet, trained=True, **changes):
    torch.manual_seed(1)
    widths = tuple(attention.inner_dim for attention in cross_attentions(unet))
    values = {"family": "pocket", "encoder": "pocket-clip", "encoder_hash": "0" * 64, "embedding_dim": DIM}
    adapter = CrossAttentionAdapter(CrossAttentionConfig(**{**values, "layers": widths, **changes}))
    if trained:
        for layer in adapter.layers:
            torch.nn.init.normal_(layer.get_parameter("to_v_user.weight"), std=0.1)
    return adapter


def inputs(rows=3, t=700):
    generator = torch.Generator().manual_seed(2)
    sample = torch.randn(rows, 4, 8, 8, generator=generator)
    prompt = torch.randn(rows, 5, 16, generator=generator)
    return sample, torch.full((rows,), t), prompt


def people(rows=3):
    return torch.randn(rows, 1, DIM, generator=torch.Generator().manual_seed(3))


def painted(unet, call):
    with torch.no_grad():
        return unet(*call).sample


def hook_count(unet):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in unet.modules())


def test_layers_are_in_the_order_of_attn_processors(unet):
    widths = [attention.inner_dim for attention in cross_attentions(unet)]
    assert widths == [32, 64, 64, 64, 32, 32, 64]  # down 1 + 1, up 2 + 2, mid
    assert cross_attentions(unet)[-1] is unet.mid_block.attentions[0].transformer_blocks[0].attn2


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
@pytest.mark.parametrize("case", ["outside", "strength 0", "null user", "outside the range of timesteps"])
def test_off_is_the_denoiser_bit_for_bit(unet, processor, case):
    unet.set_attn_processor(processor())
    call = inputs(t=700)
    expected = painted(unet, call)
    host = DiffusersHost(unet, make_adapter(unet, start_percent=0.5))
    u = torch.zeros(3, 1, DIM) if case == "null user" else people()
    if case == "outside":
        with host.personalized(u):
            painted(unet, call)
        assert torch.equal(painted(unet, call), expected)
    else:
        with host.personalized(u, 0.0 if case == "strength 0" else 1.0):
            assert torch.equal(painted(unet, call), expected)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 1e30])
def test_a_strength_that_no_picture_could_come_of_is_refused(unet, strength):
    sites = tuple(linear_sites(unet))
    config: dict[str, Any] = {"family": "pocket", "encoder": "eyes", "encoder_hash": "0", "embedding_dim": DIM}
    for adapter in (make_adapter(unet), LowRankAdapter(LowRankConfig(**config, sites=sites))):
        host = DiffusersHost(unet, adapter)
        with pytest.raises(ValueError, match="as strength, got"), host.personalized(people(), strength):
            pass


@pytest.mark.parametrize("precision", ["fp32", "bf16 autocast", "bf16", "channels last"])
def test_null_rows_of_a_mixed_batch_are_the_base_bit_for_bit(unet, precision):
    sample, t, prompt = inputs()
    if precision == "bf16":
        unet, sample, prompt = unet.to(torch.bfloat16), sample.bfloat16(), prompt.bfloat16()
    if precision == "channels last":
        unet, sample = unet.to(memory_format=torch.channels_last), sample.to(memory_format=torch.channels_last)
    host, u = DiffusersHost(unet, make_adapter(unet)), people()
    u[1] = 0
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16 autocast"):
        expected = painted(unet, (sample, t, prompt))
        with host.personalized(u):
            personal = painted(unet, (sample, t, prompt))
    assert personal.dtype == expected.dtype
    assert torch.equal(personal[1], expected[1])
    for row in (0, 2):
        assert (personal[row] - expected[row]).abs().max() > 0.01


def test_several_people_per_batch_are_each_painted_alone(unet):
    host, u, (sample, t, prompt) = DiffusersHost(unet, make_adapter(unet)), people(), inputs()
    with host.personalized(u):
        together = painted(unet, (sample, t, prompt))
    for row in range(3):
        with host.personalized(u[row : row + 1]):
            alone = painted(unet, (sample[row : row + 1], t[row : row + 1], prompt[row : row + 1]))
        torch.testing.assert_close(together[row : row + 1], alone)


def test_one_person_for_all_rows(unet):
    host, u, call = DiffusersHost(unet, make_adapter(unet)), people(1), inputs()
    with host.personalized(u):
        one = painted(unet, call)
    with host.personalized(u.expand(3, -1, -1)):
        torch.testing.assert_close(painted(unet, call), one)


def test_keyword_arguments_and_a_single_timestep(unet):
    host, u, (sample, t, prompt) = DiffusersHost(unet, make_adapter(unet)), people(), inputs()
    with host.personalized(u):
        expected = painted(unet, (sample, t, prompt))
        with torch.no_grad():
            found = unet(sample=sample, timestep=700, encoder_hidden_states=prompt).sample
    torch.testing.assert_close(found, expected)


def test_strength_scales_the_values(unet):
    adapter, u, call = make_adapter(unet), people(), inputs()
    with DiffusersHost(unet, adapter).personalized(u, 0.5):
        half = painted(unet, call)
    with DiffusersHost(unet, adapter.scaled(0.5)).personalized(u):
        torch.testing.assert_close(painted(unet, call), half)
    assert not torch.allclose(half, painted(unet, call))


def test_effect_vanishes_continuously_towards_the_null_user(unet):
    unet, u, (sample, t, prompt) = unet.double(), people().double(), inputs()
    call = sample.double(), t, prompt.double()
    host, base, effects = DiffusersHost(unet, make_adapter(unet).double()), painted(unet, call), []
    for length in (1e-2, 1e-3, 1e-4):
        with host.personalized(length * u):
            effects.append((painted(unet, call) - base).abs().max().item())
    assert effects[0] / effects[1] == pytest.approx(10, rel=0.1)
    assert effects[1] / effects[2] == pytest.approx(10, rel=0.01)


def test_range_of_timesteps_row_by_row(unet):
    host = DiffusersHost(unet, make_adapter(unet, start_percent=0.1, end_percent=0.5))  # 499.5 <= t <= 899.1
    sample, _, prompt = inputs(rows=4)
    t = torch.tensor([950, 899, 500, 499])
    expected = painted(unet, (sample, t, prompt))
    with host.personalized(people(1)):
        personal = painted(unet, (sample, t, prompt))
    assert [torch.equal(a, b) for a, b in zip(personal, expected, strict=True)] == [True, False, False, True]
    with host.personalized(people(1), window=False):
        everywhere = painted(unet, (sample, t, prompt))
    assert not any(torch.equal(a, b) for a, b in zip(everywhere, expected, strict=True))


def test_everything_is_taken_out_again(unet):
    host, hooks, processors = DiffusersHost(unet, make_adapter(unet)), hook_count(unet), dict(unet.attn_processors)
    with host.personalized(people()):
        assert hook_count(unet) > hooks
        assert unet.attn_processors == processors
    assert hook_count(unet) == hooks
    with pytest.raises(RuntimeError, match="stop"), host.personalized(people()):
        raise RuntimeError("stop")
    assert hook_count(unet) == hooks
    assert unet.attn_processors == processors


def test_an_interrupted_call_leaves_nothing_for_the_next(unet):
    host, u, (sample, t, prompt) = DiffusersHost(unet, make_adapter(unet)), people(), inputs()
    with host.personalized(u):
        expected = painted(unet, (sample, t, prompt))
        with pytest.raises(RuntimeError):
            painted(unet, (sample, t, prompt[..., :3]))
        assert torch.equal(painted(unet, (sample, t, prompt)), expected)


def test_two_adapters_add_up(unet):
    first, second = DiffusersHost(unet, make_adapter(unet)), DiffusersHost(unet, make_adapter(unet).scaled(2.0))
    u, call = people(), inputs()
    with first.personalized(u), second.personalized(u):
        both = painted(unet, call)
    with first.personalized(u, 3.0):
        torch.testing.assert_close(both, painted(unet, call), rtol=1e-4, atol=1e-5)


def test_guidance_rows():
    u = torch.ones(1, 1, 2)
    assert guidance_rows(u, "none").tolist() == [[[0, 0]], [[1, 1]]]
    assert guidance_rows(u, "same").tolist() == [[[1, 1]], [[1, 1]]]
    assert guidance_rows(u, "negative").tolist() == [[[-1, -1]], [[1, 1]]]
    with pytest.raises(ValueError, match="use none, same, negative"):
        guidance_rows(u, "other")


def dpo_step(host, u, chosen, rejected, noise, prompt, t=700):
    """Loss of one batch of pairs, the noise as target as in epsilon prediction."""
    noisy = torch.cat([chosen + noise, rejected + noise])
    call = noisy, torch.full((len(noisy),), t), prompt.repeat(2, 1, 1)
    target = noise.repeat(2, 1, 1, 1)
    with torch.no_grad():
        reference = denoising_error(host.denoiser(*call).sample, target)
    with host.personalized(u.repeat(2, 1, 1)):
        policy = denoising_error(host.denoiser(*call).sample, target)
    (chosen_m, rejected_m), (chosen_r, rejected_r) = policy.chunk(2), reference.chunk(2)
    loss, _ = diffusion_dpo_loss(chosen_m, rejected_m, chosen_r, rejected_r, beta=100.0)
    return loss.mean()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
def test_training_reduces_the_dpo_loss(unet, autocast, processor):
    unet.set_attn_processor(processor())
    unet = unet.to(memory_format=torch.channels_last)
    host = DiffusersHost(unet, make_adapter(unet, trained=False))
    optimizer = torch.optim.AdamW(host.adapter.parameters(), lr=1e-2)
    u, (noise, _, prompt) = people(), inputs()
    bright = u[:, 0, :1, None, None].sign() * torch.ones(3, 4, 8, 8)  # each person likes pictures of the sign of u
    losses = []
    for _ in range(15):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = dpo_step(host, u, bright, -bright, noise, prompt)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)  # log 2: at the start the policy is the reference
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad.any() for parameter in host.adapter.parameters())
    assert all(parameter.grad is None for parameter in unet.parameters())


def test_gradient_checkpointing_gives_the_same_gradients(unet):
    adapter, u, call = make_adapter(unet), people(), inputs()
    host, found = DiffusersHost(unet, adapter), []
    for checkpointing in (False, True):
        unet.train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        adapter.zero_grad()
        with host.personalized(u):
            unet(*call).sample.square().mean().backward()
        found.append([parameter.grad.clone() for parameter in host.adapter.parameters()])
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_refuses_a_denoiser_of_other_layers(unet):
    adapter = make_adapter(unet, layers=(32, 32))
    with pytest.raises(ValueError, match=r"7 cross-attention layers .* 'pocket' with 2 .* widths 32, 32"):
        DiffusersHost(unet, adapter)


def test_refuses_another_denoiser_class(unet):
    vae = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
    with pytest.raises(ValueError, match="AutoencoderTiny.*UNet2DConditionModel"):
        DiffusersHost(vae, make_adapter(unet))


def test_refuses_a_wrong_number_of_people(unet):
    host = DiffusersHost(unet, make_adapter(unet))
    with pytest.raises(ValueError, match="2 rows, but the denoiser is called with 3"), host.personalized(people(2)):
        painted(unet, inputs())


@pytest.mark.parametrize("shape", [(DIM,), (1, DIM), (1, 1, DIM + 1)])
def test_refuses_embeddings_of_a_wrong_shape(unet, shape):
    with (
        pytest.raises(ValueError, match=r"\[B, N, (d|6)\]"),
        DiffusersHost(unet, make_adapter(unet)).personalized(torch.ones(shape)),
    ):
        painted(unet, inputs())


class AroundToQ:
    def __call__(self, attn, hidden_states, *args, **kwargs):
        return attn.to_out[0](hidden_states)


class AroundToOut:
    def __call__(self, attn, hidden_states, *args, **kwargs):
        return attn.to_q(hidden_states)


@pytest.mark.parametrize("processor", [AroundToQ, AroundToOut])
def test_never_paints_plain_silently(unet, processor):
    host = DiffusersHost(unet, make_adapter(unet))
    name = next(name for name in unet.attn_processors if name.endswith("attn2.processor"))
    unet.set_attn_processor({**unet.attn_processors, name: processor()})
    with pytest.raises(RuntimeError, match="6 of 7"), host.personalized(people()):
        painted(unet, inputs())
