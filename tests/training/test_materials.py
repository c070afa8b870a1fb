"""From studies to picks: who is simulated, what is held out, which noise and words belong to what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ppd.encoders.towers import open_tower
from ppd.pair_index import held_out, key_of
from ppd.pairs import PreferencePair
from ppd.pocket.studio import ENCODER
from ppd.studies import continue_studies, noise_of, open_studies
from ppd.training.materials import HELD_OUT, WORDED_PROMPTS, gather
from ppd.training.real_picks import real_picks
from ppd.training.simulated_picks import QUERIES, SUPPORT_COUNTS, SUPPORTS

from .study_sets import LOOKS, encoder_of, latent_of, paint_studies, scene


@pytest.fixture(scope="module")
def tower(weights):
    return open_tower({"kind": "folder"}, weights / ENCODER)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    return paint_studies(tmp_path_factory.mktemp("studies") / "mine")


@pytest.fixture(scope="module")
def encoder(studies, tower):
    return encoder_of(studies, tower)


@pytest.fixture(scope="module")
def materials(studies, encoder):
    return gather(studies, encoder)


def test_training_and_measurement_share_neither_prompts_nor_people(studies, materials):
    prompts = {f"prompt {number}" for number in range(24)}
    assert set(materials.picks.prompts) | set(materials.held_out.prompts) == prompts
    assert not set(materials.picks.prompts) & set(materials.held_out.prompts)
    keys = np.array([key_of(prompt) for prompt in materials.held_out.prompts], np.uint64)
    assert held_out(keys, HELD_OUT).all()
    assert (materials.picks.people, materials.held_out.people) == (1000, 100)
    assert len(materials.picks) == 1000 * QUERIES
    assert (
        materials.watched.prompts == materials.held_out.prompts
        and materials.watched.people == len(materials.watching) == 40
    )
    assert materials.picks.embeddings.shape[0] == SUPPORTS * len(SUPPORT_COUNTS)


def test_latents_and_noise_are_the_studies_own(studies, materials):
    """The sides are in the order they were painted in."""
    first = next(picture for picture in studies.pictures if picture.prompt == materials.picks.prompts[0])
    torch.testing.assert_close(materials.picks.latents[0].float(), first.latent()[0])
    torch.testing.assert_close(
        materials.picks.noise[0].float(), noise_of(first.seed, (1, 4, 8, 8))[0], atol=2e-3, rtol=0
    )
    assert materials.picks.shows[0] == 0


def test_people_pick_by_their_looks(materials):
    """Who likes brightness alone prefers the brighter of two, of soft labels above one half."""
    picks, looks = materials.picks, materials.people.looks
    fan = int((looks[:, 0] - looks[:, 1:].abs().sum(1)).argmax())
    own = np.flatnonzero(picks.person == fan)
    brightness = picks.latents.float().mean((1, 2, 3))
    labels = picks.labels(own)
    brighter = brightness[picks.chosen[own]] > brightness[picks.rejected[own]]
    # Of pairs of one prompt, those that differ in brightness
    apart = (brightness[picks.chosen[own]] - brightness[picks.rejected[own]]).abs() > 0.3
    assert apart.sum() > 10 and brighter[apart].float().mean() > 0.75  # they agree with themselves in .8
    assert ((labels > 0.5) == brighter)[apart].float().mean() > 0.9
    u = picks.embeddings[-1, fan]
    assert torch.cosine_similarity(u, materials.people.tastes[fan].float(), dim=0) > 0.4


def test_simulated_people_share_what_the_encoders_people_share(studies, encoder, materials):
    shared = torch.zeros(encoder.prior.dim)
    shared[0] = 2.0
    met = gather(studies, type(encoder)(encoder.features, replace(encoder.prior, mean=shared), encoder.looks))
    for people, apart in ((met.people, shared), (materials.people, 0 * shared)):
        torch.testing.assert_close(people.tastes.mean(0).float(), apart, rtol=0, atol=0.2)
    assert torch.equal(met.people.looks, materials.people.looks)


def test_the_first_prompts_have_the_words_of_every_look(materials):
    assert len(materials.sides) == WORDED_PROMPTS < len(materials.picks.prompts)
    prompt = materials.picks.prompts[3]
    assert materials.sides[3] == [(f"{prompt}, dark", f"{prompt}, bright"), (f"{prompt}, cool", f"{prompt}, warm")]


def test_what_cannot_be_trained_on_is_said(studies, encoder, tmp_path):
    with pytest.raises(ValueError, match="not made of the studies 'mine'"):
        gather(studies, replace_looks(encoder, None))
    writer = continue_studies(tmp_path / "finished", LOOKS)
    writer.add_finished(LOOKS[0], "a", 1, scene(1), scene(2))
    with pytest.raises(ValueError, match="hold no latents to train on"):
        gather(open_studies(tmp_path / "finished"), encoder)
    few = paint_studies(tmp_path / "few", prompts=3)
    with pytest.raises(ValueError, match="at least 4 prompts with two pictures or more"):
        gather(few, encoder)


def replace_looks(encoder, looks):
    return type(encoder)(encoder.features, encoder.prior, looks)


def pairs_of(user, count, prompts=6, start=0):
    return [
        PreferencePair(f"a {n % prompts}", scene(start + n, light=0.2), scene(start + n), f"{user} {n}", user=user)
        for n in range(count)
    ]


def latents_of(pictures):
    return torch.cat([latent_of(picture) for picture in pictures]).half()


def test_real_people_stand_beside_simulated_ones(encoder, materials, tmp_path):
    pairs = [*pairs_of("ann", 12), *pairs_of("bob", 8, start=500), *pairs_of("eve", 5, start=900)]
    real = real_picks(pairs, encoder, latents_of, tmp_path)
    assert real.people == 2  # eve's are too few
    assert real.embeddings.shape == (SUPPORTS * len(SUPPORT_COUNTS), 2, encoder.prior.dim)
    assert 4 <= (real.person == 0).sum() <= 8
    both = materials.picks.with_real(real)
    assert (both.people, both.real_people, both.real.sum()) == (1002, 2, len(real))
    assert both.real_share == pytest.approx(0.5 * 2 / 10)
    mine = np.flatnonzero(both.real)
    index = torch.from_numpy(both.chosen[mine])
    torch.testing.assert_close(both.latents[index], real.latents[torch.from_numpy(real.chosen)])
    assert both.labels(mine).tolist() == [1.0] * len(mine)
    assert both.prompts[both.caption[mine[0]]] == real.prompts[real.caption[0]]
    nothing = torch.full((len(mine), *real.latents.shape[1:]), torch.nan)
    assert both.true_noise(index, nothing).isnan().all()
    simulated = torch.from_numpy(both.chosen[:3])
    torch.testing.assert_close(both.true_noise(simulated, nothing[:3]), both.noise[simulated].float())
    assert both.logits(mine, both.person[mine]).isnan().all()
    assert not both.logits(np.arange(9), both.person[:9]).isnan().any()
    assert both.logits(np.arange(9), both.person[mine[:9]]).isnan().all()  # what a real person thinks is not known
    torch.testing.assert_close(both.embeddings[:, 1000:], real.embeddings)
    drawn = both.draw(np.random.default_rng(0), 4000)
    assert both.real[drawn].mean() == pytest.approx(0.1, abs=0.02)
    assert materials.picks.with_real(real, 0.5).real_share == 0.5


def test_one_persons_u_and_queries_share_no_prompt_and_no_picture(encoder, tmp_path):
    pairs = pairs_of("ann", 12)
    seen = []
    inner = type(encoder)(encoder.features, encoder.prior, encoder.looks)
    inner.read = lambda support, **_: seen.extend(support) or encoder.read(support)
    real = real_picks(pairs, inner, latents_of, tmp_path)
    asked = {real.prompts[number] for number in real.caption}
    assert seen and not asked & {pair.prompt for pair in seen}
    assert real_picks(pairs_of("eve", 5), encoder, latents_of, tmp_path) is None


def test_real_pictures_of_another_size_are_refused(encoder, materials, tmp_path):
    real = real_picks(pairs_of("ann", 12), encoder, latents_of, tmp_path)
    with pytest.raises(ValueError, match=r"latents of \[4, 8, 8\] and \[4, 4, 4\], expected one size"):
        materials.picks.with_real(replace(real, latents=torch.zeros(len(real.latents), 4, 4, 4)))


def test_who_is_held_out_is_measured_on_the_queries_that_are_given(encoder, tmp_path):
    support, query = pairs_of("ann", 9), pairs_of("ann", 4, prompts=2, start=700)
    real = real_picks(support, encoder, latents_of, tmp_path, queries_of=query)
    assert len(real) == 4 and set(real.prompts) == {"a 0", "a 1"}
    assert real_picks(support, encoder, latents_of, tmp_path, queries_of=[]) is None


def test_what_others_are_measured_on_is_in_no_query(encoder, materials, studies, tmp_path):
    """Neither by its prompt, however it is spelled, nor by a picture."""
    query = pairs_of("ann", 4, start=700)
    apart = frozenset({"a 1", query[2].rejected.digest})
    real = real_picks(pairs_of("ann", 9), encoder, latents_of, tmp_path, queries_of=query, apart=apart)
    assert set(real.prompts) == {"a 0", "a 3"}
    shown = {one.picture.digest for one in studies.pictures if one.prompt in materials.held_out.prompts}
    assert shown < materials.apart and set(materials.held_out.prompts) < materials.apart
    taught = {one.picture.digest for one in studies.pictures if one.prompt in materials.picks.prompts}
    assert not taught & materials.apart
