"""The posterior encoder against literal numbers, scipy and sklearn, and its invariants."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ppd.encoders.encoder import PosteriorEncoder
from ppd.encoders.features import PictureFeatures
from ppd.encoders.population import PopulationPrior, fit_population, fit_whitening
from ppd.encoders.posterior import fit_posterior, fit_posteriors, fit_with_noise
from ppd.encoders.towers.open_clip import OpenClipTower
from ppd.pairs import PreferencePair
from ppd.pictures import Picture, PreferenceError
from ppd.user_embedding import UserEmbedding


def random_prior(d, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    root = torch.randn(d, d, generator=rng, dtype=torch.float64)
    return torch.randn(d, generator=rng, dtype=torch.float64), root @ root.T / d + 0.1 * torch.eye(d)


def random_picks(n, d, seed=0, theta=None):
    """Differences (chosen - rejected) of n Bradley-Terry picks."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=rng, dtype=torch.float64)
    logit = torch.zeros(n, dtype=torch.float64) if theta is None else x @ theta
    first = torch.rand(n, generator=rng, dtype=torch.float64) < torch.sigmoid(logit)
    return torch.where(first[:, None], x, -x)


def test_one_pick_in_one_dimension_literally():
    # theta solves theta = sigmoid(-theta); covariance = 1 / (1 + s (1 - s)) with s = sigmoid(theta)
    one = torch.ones(1, dtype=torch.float64)
    mean, covariance = fit_posterior(one[None], one, torch.zeros(1, dtype=torch.float64), one[None])
    torch.testing.assert_close(mean, torch.tensor([0.4010581375], dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(covariance, torch.tensor([[0.8063147]], dtype=torch.float64), atol=1e-6, rtol=0)


def test_one_tie_in_one_dimension_literally():
    # at theta 0 a tie is balanced and has curvature 1/4: covariance = 1 / (1 + 1/4 * 2^2)
    mean, covariance = fit_posterior(torch.tensor([[2.0]]), torch.tensor([0.5]), torch.zeros(1), torch.eye(1))
    torch.testing.assert_close(mean, torch.zeros(1))
    torch.testing.assert_close(covariance, torch.tensor([[0.5]]))


def test_ties_pull_towards_indifference():
    mean, _ = fit_posterior(torch.ones(50, 1), torch.full((50,), 0.5), torch.full((1,), 2.0), torch.eye(1))
    assert 0 < float(mean) < 0.5


@pytest.mark.parametrize("n", [1, 3, 200])
def test_reproduces_scipys_optimum(n):
    optimize = pytest.importorskip("scipy.optimize")
    mean, covariance = random_prior(6)
    x = random_picks(n, 6, seed=n)
    rng = np.random.default_rng(n)
    y, w = np.where(rng.random(n) < 0.2, 0.5, 1.0), rng.uniform(0.2, 1.0, n)
    precision = np.linalg.inv(covariance.numpy())

    def negative_log_posterior(theta):
        z = x.numpy() @ theta
        p = 1 / (1 + np.exp(-z))
        value = (w * (np.logaddexp(0, z) - y * z)).sum() + 0.5 * (theta - mean.numpy()) @ precision @ (
            theta - mean.numpy()
        )
        return value, x.numpy().T @ (w * (p - y)) + precision @ (theta - mean.numpy())

    best = optimize.minimize(negative_log_posterior, mean.numpy(), jac=True, method="BFGS", options={"gtol": 1e-10})
    p = 1 / (1 + np.exp(-x.numpy() @ best.x))
    hessian = precision + x.numpy().T @ (x.numpy() * (w * p * (1 - p))[:, None])
    got_mean, got_covariance = fit_posterior(x, torch.tensor(y), mean, covariance, torch.tensor(w))
    np.testing.assert_allclose(got_mean.numpy(), best.x, atol=1e-6)
    np.testing.assert_allclose(got_covariance.numpy(), np.linalg.inv(hessian), atol=1e-6)


def test_reproduces_sklearns_optimum():
    linear_model = pytest.importorskip("sklearn.linear_model")
    x = random_picks(80, 5, theta=torch.tensor([1.0, -1.0, 0.5, 0.0, 2.0], dtype=torch.float64))
    flip = np.random.default_rng(0).random(80) < 0.5  # sklearn wants both classes: show half of the pairs turned round
    shown = np.where(flip[:, None], -x.numpy(), x.numpy())
    fitted = linear_model.LogisticRegression(C=2.0, fit_intercept=False, tol=1e-12, max_iter=10000)
    fitted.fit(shown, (~flip).astype(int))
    mean, _ = fit_posterior(x, torch.ones(80), torch.zeros(5, dtype=torch.float64), 2 * torch.eye(5))
    np.testing.assert_allclose(mean.numpy(), fitted.coef_[0], atol=1e-5)


def test_no_pairs_return_the_prior_itself():
    mean, covariance = random_prior(4)
    got = fit_posterior(torch.empty(0, 4), torch.empty(0), mean, covariance)
    assert torch.equal(got[0], mean) and torch.equal(got[1], covariance)


@pytest.mark.parametrize("n", [1, 2, 4, 16, 1000])
def test_antisymmetry(n):
    mean, covariance = random_prior(8)
    x, outcomes = random_picks(n, 8, seed=n), torch.ones(n)
    outcomes[::3] = 0.5
    forward, mirrored = fit_posterior(x, outcomes, mean, covariance), fit_posterior(-x, outcomes, -mean, covariance)
    assert torch.equal(mirrored[0], -forward[0]) and torch.equal(mirrored[1], forward[1])


def test_more_pairs_shrink_the_covariance():
    mean, covariance = random_prior(6)
    x, previous = random_picks(1000, 6), covariance
    for n in (1, 2, 4, 16, 64, 250, 1000):
        spread = fit_posterior(x[:n], torch.ones(n), mean, covariance)[1]
        assert float(spread.trace()) < float(previous.trace())
        assert float(torch.linalg.eigvalsh(spread).min()) > 0
        previous = spread


def test_more_pairs_approach_the_person_as_fast_as_the_covariance_says():
    torch.manual_seed(0)
    mean, covariance = random_prior(6)
    people = mean + torch.randn(300, 6, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    x = torch.stack([random_picks(250, 6, seed, theta) for seed, theta in enumerate(people)])
    errors = []
    for n in (1, 4, 16, 64, 250):
        means, spreads = fit_posteriors(x[:, :n], torch.ones(300, n), torch.ones(300, n), mean, covariance)
        error = means - people
        errors.append(float(error.square().sum(-1).mean()))
        surprise = torch.einsum("pd,pde,pe->p", error, torch.linalg.inv(spreads), error).mean() / 6
        assert 0.85 < float(surprise) < 1.15  # 1 where the posterior is calibrated
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.2 * errors[0]


def test_one_more_pick_narrows_every_direction():
    # holds for any further observation in a tie; for a pick curvature moves as well, hence the tie
    mean, covariance = random_prior(5)
    x = random_picks(1, 5)
    spread = fit_posterior(x, torch.tensor([0.5]), mean, covariance)[1]
    assert float(torch.linalg.eigvalsh(covariance - spread).min()) > -1e-12


def test_weights_scale_the_log_likelihood():
    mean, covariance = random_prior(3)
    x, ones = random_picks(4, 3), torch.ones(4)
    doubled = fit_posterior(x, ones, mean, covariance, 2 * ones)
    twice = fit_posterior(torch.cat([x, x]), torch.ones(8), mean, covariance)
    torch.testing.assert_close(doubled, twice)
    none = fit_posterior(x, ones, mean, covariance, 0 * ones)
    torch.testing.assert_close(none, (mean, covariance))


def test_batched_is_one_by_one_and_padding_is_ignored():
    mean, covariance = random_prior(7)
    counts = [0, 1, 5, 9, 9]
    people = [random_picks(n, 7, seed=n + 50) for n in counts]
    x, y, mask = torch.full((5, 9, 7), torch.nan, dtype=torch.float64), torch.full((5, 9), torch.nan), torch.zeros(5, 9)
    for index, person in enumerate(people):
        x[index, : len(person)], y[index, : len(person)], mask[index, : len(person)] = person, 1.0, 1.0
    means, covariances = fit_posteriors(x, y, mask.bool(), mean, covariance)
    for index, person in enumerate(people):
        one = fit_posterior(person, torch.ones(len(person)), mean, covariance)
        torch.testing.assert_close((means[index], covariances[index]), one)
    assert torch.equal(means[0], mean)


def test_a_prior_without_full_rank():
    low = torch.tensor([[1.0], [2.0], [0.0]], dtype=torch.float64)
    mean, covariance = fit_posterior(torch.eye(3).double(), torch.ones(3), torch.zeros(3).double(), low @ low.T)
    assert float((mean - low[:, 0] * (mean @ low[:, 0]) / 5).abs().max()) < 1e-7
    assert float(covariance[2].abs().max()) < 1e-7 and float(mean[0]) > 0


@pytest.mark.parametrize("scale", [1e-6, 1e3, 1e5])
def test_extreme_differences_stay_finite(scale):
    mean, covariance = random_prior(4)
    fitted, spread = fit_posterior(scale * random_picks(30, 4), torch.ones(30), mean, covariance)
    assert bool(fitted.isfinite().all()) and bool(spread.isfinite().all())


def test_contradicting_picks_settle():
    x = torch.tensor([[50.0], [-50.0], [50.0]], dtype=torch.float64)
    mean, _ = fit_posterior(x, torch.ones(3), torch.tensor([5.0]).double(), 100 * torch.eye(1).double())
    # where the gradient is 0: 50 (3 p - 2) + (mean - 5) / 100 = 0
    assert float(torch.sigmoid(50 * mean)) == pytest.approx(2 / 3 + (5 - float(mean)) / 15000, abs=1e-9)


@pytest.mark.parametrize(
    ("differences", "outcomes", "mask", "message"),
    [
        (torch.zeros(2, 3, 5), torch.ones(2, 3), torch.ones(2, 3), r"\[people, pairs, 4\], got \[2, 3, 5\]"),
        (torch.zeros(2, 3, 4), torch.ones(2, 2), torch.ones(2, 3), "an outcome and a weight per difference"),
        (torch.zeros(2, 3, 4), torch.ones(2, 3), -torch.ones(2, 3), "at least 0"),
        (torch.zeros(2, 3, 4), 2 * torch.ones(2, 3), torch.ones(2, 3), "outcomes from 0 to 1"),
        (torch.full((2, 3, 4), torch.inf), torch.ones(2, 3), torch.ones(2, 3), "not finite"),
    ],
)
def test_wrong_inputs(differences, outcomes, mask, message):
    mean, covariance = random_prior(4)
    with pytest.raises(ValueError, match=message):
        fit_posteriors(differences, outcomes, mask, mean, covariance)


def test_covariance_with_negative_variance():
    with pytest.raises(ValueError, match="negative variances"):
        fit_posterior(torch.ones(1, 2), torch.ones(1), torch.zeros(2), torch.diag(torch.tensor([1.0, -1.0])))


def test_em_recovers_a_known_population():
    torch.manual_seed(0)
    true_mean = torch.tensor([1.0, -0.5, 0.0], dtype=torch.float64)
    root = torch.tensor([[1.0, 0.0, 0.0], [0.7, 0.6, 0.0], [0.0, 0.0, 0.3]], dtype=torch.float64)
    people = []
    for seed in range(500):
        theta = true_mean + root @ torch.randn(3, dtype=torch.float64)
        n = 20 + seed % 30  # people differ in their number of pairs
        people.append((random_picks(n, 3, seed=seed, theta=theta), torch.ones(n)))
    mean, covariance = fit_population(people)
    torch.testing.assert_close(mean, true_mean, atol=0.15, rtol=0)
    torch.testing.assert_close(covariance, root @ root.T, atol=0.25, rtol=0)
    assert fit_population(people, rounds=2)[0].equal(fit_population(people, rounds=2)[0])


def test_em_takes_people_without_pairs_and_refuses_none():
    mean, covariance = fit_population([(torch.empty(0, 2), torch.empty(0)), (torch.ones(1, 2), torch.ones(1))], 2)
    assert bool(mean.isfinite().all()) and bool(covariance.isfinite().all())
    with pytest.raises(ValueError, match="at least one person"):
        fit_population([])
    with pytest.raises(ValueError, match=r"\[n, 2\].*got \[1, 3\]"):
        fit_population([(torch.ones(1, 2), torch.ones(1)), (torch.ones(1, 3), torch.ones(1))])


def test_a_thousand_people_take_seconds():
    people = [(random_picks(16, 48, seed=seed), torch.ones(16)) for seed in range(1000)]
    start = time.process_time()  # of all threads: a busy machine is no fault
    mean, covariance = fit_population(people, rounds=4)
    x = torch.randn(1400, 32, 48)
    fit_posteriors(x, torch.ones(1400, 32), torch.ones(1400, 32), mean, covariance)
    assert time.process_time() - start < 120


def test_whitening():
    torch.manual_seed(0)
    features = torch.randn(500, 6) @ torch.randn(6, 6) + 3
    center, basis = fit_whitening(features, 4)
    assert center.shape == (6,) and basis.shape == (6, 4)
    white = (features - center) @ basis
    torch.testing.assert_close(white.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(white.T.cov(), torch.eye(4), atol=1e-3, rtol=0)
    again = fit_whitening(-(features - center) + center, 4)[1]
    torch.testing.assert_close(again, basis, atol=1e-3, rtol=1e-3)  # signs are fixed by the basis, not by the data


def test_whitening_leaves_out_what_does_not_vary():
    flat = torch.cat([torch.randn(50, 2), torch.ones(50, 3)], dim=1)
    assert fit_whitening(flat)[1].shape == (5, 2)
    with pytest.raises(ValueError, match="all alike"):
        fit_whitening(torch.ones(5, 3))
    with pytest.raises(ValueError, match="at least 2"):
        fit_whitening(torch.ones(1, 3))


# The encoder on pictures


@pytest.fixture(scope="module")
def features():
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    vision = open_clip.model.CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=8, image_size=32)
    text = open_clip.model.CLIPTextCfg(context_length=8, vocab_size=20, width=16, heads=2, layers=1)
    tower = open_clip.model.CLIP(12, vision, text).visual
    return PictureFeatures(OpenClipTower(tower, name="tiny", size=32, mean=[0.5] * 3, std=[0.25] * 3, normalize=True))


@pytest.fixture(scope="module")
def prior(features):
    center, basis = fit_whitening(features.picture_features([picture(seed) for seed in range(60)]), 6)
    mean, covariance = random_prior(6)
    return PopulationPrior(mean, covariance, center, basis, features.name, features.weight_hash)


def picture(seed):
    colors = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Picture.from_image(Image.fromarray(colors).resize((32, 32)))


def some_pairs(n, start=0):
    return [
        PreferencePair("p", picture(start + 2 * k), picture(start + 2 * k + 1), f"pair-{k}", tie=k % 5 == 4)
        for k in range(n)
    ]


def test_encode_is_the_fit_on_whitened_differences(features, prior):
    pairs = some_pairs(7)
    encoder = PosteriorEncoder(features, prior)
    embedding = encoder.encode(pairs)
    chosen, rejected = (features.picture_features([getattr(p, role) for p in pairs]) for role in ("chosen", "rejected"))
    outcomes = torch.tensor([1, 1, 1, 1, 0.5, 1, 1])
    x = (prior.whiten(chosen) - prior.whiten(rejected)) / embedding.noise
    mean, covariance = fit_posterior(x, outcomes, prior.mean.double(), prior.covariance.double())
    torch.testing.assert_close(embedding.u, mean[None].float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(embedding.covariance, covariance.float(), atol=1e-4, rtol=1e-4)
    assert embedding.pairs == 7 and embedding.encoder == "tiny" and embedding.encoder_hash == encoder.weight_hash
    assert embedding.u.dtype == torch.float32


def test_a_soft_label_is_the_votes_it_stands_for(features, prior):
    """.7 says what seven votes of ten do, each a tenth: the likelihood is the cross entropy."""
    plain, other = some_pairs(2)
    soft = replace(plain, probability=0.7)
    against = replace(plain, chosen=plain.rejected, rejected=plain.chosen, weight=0.3)
    encoder = PosteriorEncoder(features, prior)
    found, votes = encoder.encode([soft, other]), encoder.encode([replace(plain, weight=0.7), against, other])
    torch.testing.assert_close(found.u, votes.u)
    torch.testing.assert_close(found.covariance, votes.covariance)
    assert (found.u - encoder.encode([plain, other]).u).abs().max() > 1e-3


def test_no_pairs_are_the_population_user(features, prior):
    embedding = PosteriorEncoder(features, prior).encode([])
    assert torch.equal(embedding.u[0], prior.mean) and embedding.pairs == 0
    assert embedding.uncertainty == pytest.approx(float(prior.covariance.trace()), rel=1e-5)


def test_swapping_pairs_and_mirroring_the_prior_turns_the_embedding_round(features, prior):
    pairs = some_pairs(6)
    swapped = [replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in pairs]
    forward = PosteriorEncoder(features, prior).encode(pairs)
    mirrored = PosteriorEncoder(features, replace(prior, mean=-prior.mean)).encode(swapped)
    assert torch.equal(mirrored.u, -forward.u)
    assert mirrored.encoder_hash == forward.encoder_hash  # the same space
    assert forward.uncertainty < PosteriorEncoder(features, prior).encode(pairs[:2]).uncertainty


def test_many_pairs(features, prior):
    embedding = PosteriorEncoder(features, prior).encode(some_pairs(1000))
    assert embedding.pairs == 1000 and embedding.uncertainty < 0.5 * float(prior.covariance.trace())


def test_order_of_pairs_does_not_matter_and_runs_repeat(features, prior):
    encoder, pairs = PosteriorEncoder(features, prior), some_pairs(9)
    assert torch.equal(encoder.encode(pairs).u, encoder.encode(pairs).u)
    torch.testing.assert_close(encoder.encode(pairs[::-1]).u, encoder.encode(pairs).u)


def test_adding_a_pair_costs_one_pair(features, prior):
    encoder, seen = PosteriorEncoder(features, prior), []
    pairs = some_pairs(12, start=5000)
    encoder.encode(pairs[:11])
    hook = features.tower.visual.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    encoder.encode(pairs)
    hook.remove()
    assert seen == [2]


def test_bad_pictures_by_pair_id(features, prior, tmp_path):
    encoder = PosteriorEncoder(features, prior)
    good = some_pairs(3)
    torn = replace(good[1], rejected=Picture(data=b"torn"), id="torn one")
    gone = replace(good[1], chosen=Picture(tmp_path / "gone.png"), rejected=Picture(data=b"torn"), id="gone one")
    with pytest.raises(PreferenceError, match="Pair 'torn one', rejected: .*cannot be decoded") as caught:
        encoder.encode([good[0], torn, good[2]])
    assert caught.value.pair_id == "torn one"
    skipped = []
    embedding = encoder.encode([good[0], torn, gone, good[2]], on_bad="skip", skipped=skipped)
    assert [error.pair_id for error in skipped] == ["torn one", "gone one"] and embedding.pairs == 2
    assert torch.equal(embedding.u, encoder.encode([good[0], good[2]]).u)
    assert torch.equal(encoder.encode([torn], on_bad="skip").u[0], prior.mean)
    with pytest.raises(ValueError, match="'raise' or 'skip'"):
        encoder.encode(good, on_bad="ignore")


def test_weights_of_skipped_pairs_go_with_them(features, prior):
    encoder, good = PosteriorEncoder(features, prior), some_pairs(2)
    bad = replace(good[0], chosen=Picture(data=b"torn"))
    faded = [replace(good[0], weight=0.5), good[1]]
    mixed = encoder.encode([replace(bad, weight=9.0), *faded], on_bad="skip")
    assert torch.equal(mixed.u, encoder.encode(faded).u)
    assert not torch.equal(mixed.u, encoder.encode(good).u)


def test_faded_picks_leave_the_population_user(features, prior):
    encoder, pairs = PosteriorEncoder(features, prior), some_pairs(2)
    apart = [
        float((encoder.encode([replace(pair, weight=weight) for pair in pairs]).u[0] - prior.mean).norm())
        for weight in (0.0, 0.1, 1.0)
    ]
    assert apart[0] == 0 < 3 * apart[1] < apart[2]


def test_contradictions_raise_the_inferred_noise_and_pull_towards_indifference():
    """One question answered to and fro, beside answers that agree: 30 picks in 2 dimensions."""
    mean, covariance = torch.zeros(2, dtype=torch.float64), 4 * torch.eye(2, dtype=torch.float64)
    x = torch.tensor([[3.0, 0.5], [0.5, 3.0]], dtype=torch.float64).repeat(15, 1)
    agreed = torch.ones(30)
    contradicted = torch.where(torch.arange(30) % 3 == 0, 0.0, 1.0)
    found = {name: fit_with_noise(x, y, mean, covariance) for name, y in (("all", agreed), ("some", contradicted))}
    assert (found["all"][2], found["some"][2]) == (1.0, 1.5)
    assert fit_with_noise(x, torch.full((30,), 0.5), mean, covariance)[2] == 1.0  # ties are none
    sure = {name: float(m @ x[0]) / noise for name, (m, _, noise) in found.items()}
    assert 0 < sure["some"] < 0.25 * sure["all"]  # .68 against 4.99


def test_noise_of_the_population_is_found_in_its_people():
    """200 people in 8 dimensions with 30 picks each: which scale is inferred where the truth is 1 and 4."""
    d, generator = 8, torch.Generator().manual_seed(0)
    mean, covariance = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)

    def inferred(truth):
        found = []
        for _ in range(200):
            taste, x = torch.randn(d, generator=generator), torch.randn(30, d, generator=generator)
            y = (torch.rand(30, generator=generator) < torch.sigmoid(x @ taste / truth)).float()
            found.append(fit_with_noise(x, y, mean, covariance)[2])
        return torch.tensor(found)

    assert (inferred(1.0) <= 1.5).float().mean() > 0.9
    assert (inferred(4.0) > 1.0).float().mean() > 0.8


def test_noise_makes_every_pick_tell_less(features, prior):
    pairs = some_pairs(4)
    sharp = PosteriorEncoder(features, prior).encode(pairs)
    vague = PosteriorEncoder(features, replace(prior, noise=4.0)).encode(pairs)
    assert vague.uncertainty > sharp.uncertainty
    assert float((vague.u[0] - prior.mean).norm()) < float((sharp.u[0] - prior.mean).norm())


def test_prior_and_encoder_must_match(features, prior):
    with pytest.raises(ValueError, match="fitted on features of other .*got tiny"):
        PosteriorEncoder(features, replace(prior, encoder="other", encoder_hash="cd" * 32))


def test_embedding_hash_names_its_coordinates(features, prior):
    one = PosteriorEncoder(features, prior).weight_hash
    assert PosteriorEncoder(features, replace(prior, basis=-prior.basis)).weight_hash != one
    assert PosteriorEncoder(features, replace(prior, covariance=2 * prior.covariance)).weight_hash == one


def test_the_embeddings_file_fits_again(features, prior, tmp_path):
    encoder = PosteriorEncoder(features, prior)
    encoder.encode(some_pairs(3)).save(tmp_path / "u.safetensors")
    UserEmbedding.load(tmp_path / "u.safetensors").check_encoder(encoder.name, encoder.weight_hash)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": 0.0}, "noise above 0"),
        ({"noise": float("nan")}, "noise above 0"),
        ({"noise": float("inf")}, "noise above 0, got inf"),
        ({"mean": torch.zeros(5)}, "Expected mean"),
        ({"basis": torch.zeros(6, 12)}, "Expected mean"),
        ({"center": torch.full((12,), torch.nan)}, "not finite"),
        ({"covariance": -torch.eye(6)}, "without negative variances"),
    ],
)
def test_a_prior_that_cannot_be_is_refused(prior, change, message):
    with pytest.raises(ValueError, match=message):
        replace(prior, **change)


def test_a_prior_of_no_dimensions_is_refused():
    with pytest.raises(ValueError, match="at least one dimension of taste"):
        PopulationPrior(torch.zeros(0), torch.zeros(0, 0), torch.zeros(4), torch.zeros(4, 0), "tiny", "hash")
