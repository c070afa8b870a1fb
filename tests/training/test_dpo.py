import pytest
import torch

from ppd.training.dpo import PairErrors, denoising_error, diffusion_dpo_loss


def test_denoising_error_is_the_mean_per_sample():
    prediction = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]])
    target = torch.tensor([[[0.0, 0.0]], [[1.0, 3.0]]])
    torch.testing.assert_close(denoising_error(prediction, target), torch.tensor([2.5, 5.0]))


def test_denoising_error_is_float32_in_every_precision():
    target = torch.zeros(1, 4)
    with torch.autocast("cpu", torch.bfloat16):
        error = denoising_error(torch.full((1, 4), 300.0, dtype=torch.float16), target)
    assert error.dtype == torch.float32
    assert error.item() == 90000.0  # beyond float16


def test_loss_on_literal_numbers():
    loss, logits = diffusion_dpo_loss(
        policy_chosen=torch.tensor([0.10, 0.30, 0.20]),
        policy_rejected=torch.tensor([0.30, 0.10, 0.20]),
        reference_chosen=torch.tensor([0.20, 0.20, 0.10]),
        reference_rejected=torch.tensor([0.20, 0.20, 0.10]),
        beta=10.0,
    )
    torch.testing.assert_close(logits, torch.tensor([1.0, -1.0, 0.0]))
    torch.testing.assert_close(loss, torch.tensor([0.31326169, 1.31326169, 0.69314718]))


def test_loss_counts_what_the_reference_already_prefers():
    _, logits = diffusion_dpo_loss(
        torch.tensor([0.1]), torch.tensor([0.4]), torch.tensor([0.1]), torch.tensor([0.4]), beta=1000.0
    )
    assert logits.item() == 0.0


def test_gradient_lowers_the_chosen_error_and_raises_the_rejected_one():
    chosen, rejected = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    loss, _ = diffusion_dpo_loss(chosen, rejected, torch.zeros(1), torch.zeros(1), beta=8.0)
    loss.sum().backward()
    assert chosen.grad.item() == pytest.approx(2.0)  # beta / 2 * sigmoid(0)
    assert rejected.grad.item() == pytest.approx(-2.0)


def test_swapped_pairs_mirror_the_logits():
    a, b, c, d = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    _, logits = diffusion_dpo_loss(a, b, c, d, beta=100.0)
    _, swapped = diffusion_dpo_loss(b, a, d, c, beta=100.0)
    torch.testing.assert_close(logits, -swapped)


def test_soft_labels_are_a_cross_entropy():
    errors = torch.tensor([[0.1], [0.3], [0.2], [0.2]])  # logit 1 at beta 10
    loss, logits = diffusion_dpo_loss(errors[0], errors[1], errors[2], errors[3], 10.0, torch.tensor([0.7]))
    torch.testing.assert_close(loss, torch.tensor([0.7 * 0.31326169 + 0.3 * 1.31326169]))
    chosen = errors[0].clone().requires_grad_()
    at_best = torch.sigmoid(logits)
    diffusion_dpo_loss(chosen, errors[1], errors[2], errors[3], 10.0, at_best)[0].sum().backward()
    assert chosen.grad.item() == pytest.approx(0.0, abs=1e-6)


def test_the_safeguard_keeps_as_much_of_the_rejected_gradient_as_the_chosen_error_allows():
    """<e_w, e_l> is 4, 1 and -2, |e_w|^2 2, 2 and 2."""
    target = torch.zeros(6, 2)
    prediction = torch.tensor([[1.0, 1], [1, 1], [1, 1], [2, 2], [1, 0], [-1, -1]], requires_grad=True)
    errors = PairErrors.of(prediction, target)
    kept = errors.safeguarded(0.4)
    torch.testing.assert_close(kept.rejected, errors.rejected)
    (gradient,) = torch.autograd.grad(kept.rejected.sum(), prediction, retain_graph=True)
    (plain,) = torch.autograd.grad(errors.rejected.sum(), prediction)
    share = torch.tensor([[0.6 * 2 / 4], [1.0], [1.0]])
    torch.testing.assert_close(gradient[3:], share * plain[3:])
    assert not gradient[:3].any()
