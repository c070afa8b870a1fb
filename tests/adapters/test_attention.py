import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ppd.adapters.attention import block_diagonal, fold, folded_attention, user_attention

# Difference between the plain and the folded form, relative to the largest output.
LIMITS = {torch.float32: 5e-6, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def split(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def layers(container, query_bias=False, inner=32, features=24):
    torch.manual_seed(1)
    to_q = nn.Linear(features, inner, bias=query_bias)
    to_out = container([nn.Linear(inner, features), nn.Dropout(0.0)])
    return to_q, to_out


def sequential(modules):
    return nn.Sequential(*modules)


def through(to_out, x):
    for layer in to_out:
        x = layer(x)
    return x


def test_literal_numbers():
    q = torch.tensor([[[2.0, 0.0, 1.0, 0.0]]])
    k = torch.tensor([[[1.0, 0.0, 0.0, 5.0], [0.0, 1.0, 0.0, -5.0]]])
    v = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]])
    # Head 1 scores (2, 0) / sqrt(2), softmax .8044, .1956; head 2 scores (0, 0), softmax .5, .5.
    expected = torch.tensor([[[1.7822813, 2.7822813, 5.0, 6.0]]])
    torch.testing.assert_close(user_attention(q, k, v, heads=2), expected)


def test_block_diagonal_literal():
    rows = block_diagonal(torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]), heads=2)
    expected = [[1.0, 2, 0, 0], [0, 0, 3, 4], [5, 6, 0, 0], [0, 0, 7, 8]]
    torch.testing.assert_close(rows, torch.tensor([expected]))


@pytest.mark.parametrize("users", [1, 3])
def test_equals_scaled_dot_product_attention(users):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 10, 32, generator=generator)
    k, v = torch.randn(2, users, 5, 32, generator=generator)
    expected = F.scaled_dot_product_attention(
        split(q, 4), split(k, 4).expand(3, -1, -1, -1), split(v, 4).expand(3, -1, -1, -1)
    )
    torch.testing.assert_close(user_attention(q, k, v, 4), expected.transpose(1, 2).flatten(2))


def test_groups_attend_separately_and_add_up():
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(2, 10, 32, generator=generator)
    (k, v), (other_k, other_v) = torch.randn(2, 2, 2, 5, 32, generator=generator)
    both = user_attention(q, torch.cat([k, other_k], 1), torch.cat([v, other_v], 1), 4, groups=2)
    torch.testing.assert_close(both, user_attention(q, k, v, 4) + user_attention(q, other_k, other_v, 4))
    same = user_attention(q, torch.cat([k, k], 1), torch.cat([v, -v], 1), 4, groups=2)
    assert same.abs().max() < 1e-6


def test_gradients_equal_scaled_dot_product_attention():
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, n, 16, generator=generator, dtype=torch.float64) for n in (6, 4, 4)]
    ours = [x.clone().requires_grad_() for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    user_attention(ours[0], ours[1], ours[2], 2).square().sum().backward()
    F.scaled_dot_product_attention(*(split(x, 2) for x in theirs)).square().sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("container", [nn.ModuleList, sequential], ids=["diffusers", "comfyui"])
@pytest.mark.parametrize("query_bias", [False, True])
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_folded_equals_plain(container, query_bias, dtype):
    to_q, to_out = layers(container, query_bias)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 50, 24, generator=generator)
    k, v = torch.randn(2, 2, 6, 32, generator=generator) * 2
    prompt = torch.randn(2, 50, 32, generator=generator)
    with torch.no_grad():
        plain = through(to_out, prompt + user_attention(to_q(x), k, v, 4)) - through(to_out, prompt)
        folded = fold(to_q.to(dtype), to_out.to(dtype), k, v, 4, in_features=24, dtype=dtype)
        assert folded.scores.dtype == folded.values.dtype == torch.float32
        assert folded.scores.shape == (2, 24, 24) and folded.values.shape == (2, 24, 24)
        assert (folded.offset is not None) == query_bias
        added = folded_attention(x.to(dtype), folded.to(dtype), 4)
    assert added.dtype == dtype
    assert (added.float() - plain).abs().max() / plain.abs().max() < LIMITS[dtype]


def test_folding_leaves_the_bias_of_to_out_to_the_prompt():
    to_q, to_out = layers(nn.ModuleList)
    zero = torch.zeros(1, 4, 32)
    with torch.no_grad():
        folded = fold(to_q, to_out, torch.randn(1, 4, 32), zero, 4, in_features=24)
        added = folded_attention(torch.randn(1, 7, 24), folded, 4)
    assert to_out[0].bias.abs().max() > 0
    assert torch.equal(added, torch.zeros(1, 7, 24))


def test_folding_a_large_bias_keeps_half_precision():
    to_q, to_out = layers(nn.ModuleList)
    to_out[0].bias.data += 20.0
    exact, (k, v) = (
        to_out[0].weight.detach().clone(),
        torch.randn(2, 1, 4, 32, generator=torch.Generator().manual_seed(0)),
    )
    with torch.no_grad():
        folded = fold(to_q.half(), to_out.half(), k, v, 4, in_features=24, dtype=torch.float16)
    expected = block_diagonal(v, 4) @ exact.T
    assert (folded.values - expected).abs().max() / expected.abs().max() < 5e-3


def test_folding_calls_the_layers_and_never_reads_a_weight():
    weight = torch.randn(32, 24, generator=torch.Generator().manual_seed(0))
    k, v = torch.randn(2, 1, 4, 32, generator=torch.Generator().manual_seed(1))
    to_q = nn.Linear(24, 32, bias=False)
    to_q.weight.data.zero_()
    to_q.register_forward_hook(
        lambda module, args, output: output + args[0] @ weight.T
    )  # as a LoRA in bypass mode does
    folded = fold(to_q, nn.Identity(), k, v, 4, in_features=24)
    expected = fold(lambda x: x @ weight.T, nn.Identity(), k, v, 4, in_features=24)
    torch.testing.assert_close(folded.scores, expected.scores)
    assert folded.scores.abs().max() > 0


class Rounded(nn.Linear):
    """Its input in 127 steps a row, as int8 products have it."""

    def forward(self, x):
        step = x.abs().amax(-1, keepdim=True).clamp(min=1e-3) / 127
        return super().forward((x / step).round() * step)


@pytest.mark.parametrize("where", ["to_q", "to_out"])
@pytest.mark.parametrize(
    "added", [nn.RMSNorm(32), nn.LayerNorm(32), nn.GELU(), nn.Tanh()], ids=lambda m: type(m).__name__
)
def test_what_is_not_affine_is_refused(where, added):
    """RMSNorm is odd and 0 at 0: only a sum gives it away."""
    to_q, to_out = layers(sequential, inner=32, features=32)
    changed = {"to_q": to_q, "to_out": to_out}
    changed[where] = nn.Sequential(changed[where], added)
    k = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=r"not affine \(.* off the sum of its outputs, .*\).*: remove"),
    ):
        fold(changed["to_q"], changed["to_out"], k, k, 4, 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounding_is_not_taken_for_a_norm(dtype):
    torch.manual_seed(2)
    to_q, to_out = Rounded(96, 64, bias=True).to(dtype), Rounded(64, 96).to(dtype)
    k = torch.randn(1, 4, 64).to(dtype)
    with torch.no_grad():
        folded = fold(to_q, to_out, k, k, 4, 96)
    scores = to_q.weight.float().T @ block_diagonal(k.float() / 4, 4).transpose(1, 2)
    torch.testing.assert_close(folded.scores, scores, rtol=0, atol=0.02 * scores.abs().max().item())
