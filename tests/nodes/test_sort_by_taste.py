"""Sort by Taste: batches and lists in, best first out, with scores and how sure."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.comfyui


@pytest.fixture
def images():
    return torch.rand(5, 32, 32, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def warm(run):
    pairs = run("PreferencePairLoader", preference_set="example: warm").result[0]
    return run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]


def sort(run, images, **more):
    return run("PPD_SortByTaste", images=images, **more).result


def expected_order(images, embedding, weights):
    """By the definition: u . phi of what the tower sees in each picture alone."""
    from ppd.pictures import Picture
    from ppd.pocket.studio import load_encoder

    encoder = load_encoder(weights)
    seen = encoder.features.picture_features([Picture.from_tensor(image) for image in images])
    scores = encoder.prior.whiten(seen) @ embedding.u[0] / (encoder.prior.noise * embedding.noise)
    return scores.argsort(descending=True).tolist(), scores.sort(descending=True).values


def test_a_batch_comes_back_best_first(run, images, warm, comfy_folders):
    (batch,), scores, report = sort(run, [images], user_embedding=[warm])
    order, expected = expected_order(images, warm, comfy_folders.weights)
    assert torch.equal(batch, images[order]) and order != [0, 1, 2, 3, 4]
    torch.testing.assert_close(torch.tensor(scores), expected, rtol=1e-4, atol=1e-4)
    lines = report.splitlines()
    assert lines[0] == "5 pictures sorted for The person by 4 picks, best first."
    assert lines[1].startswith("The first would be picked over the second ") and "times in 100" in lines[1]
    assert lines[2:] == [
        f"{n}. number {i + 1}: {s:+.2f}" for n, (i, s) in enumerate(zip(order, scores, strict=True), 1)
    ]
    assert not [path for path in comfy_folders.user.rglob("*.npy") if path.stat().st_mtime_ns > _before(comfy_folders)]


def _before(comfy_folders):
    """When the last of the example's eight pictures was looked at."""
    return sorted(path.stat().st_mtime_ns for path in comfy_folders.user.rglob("*.npy"))[7]


def test_a_list_of_several_sizes_and_keep(run, images, warm):
    other = torch.rand(2, 16, 48, 3, generator=torch.Generator().manual_seed(1))
    found, scores, report = sort(run, [images, other], user_embedding=[warm], keep=[3])
    assert len(scores) == 3 and "7 pictures sorted for The person by 4 picks, best first, 3 kept." in report
    assert sum(len(batch) for batch in found) == 3
    everything, all_scores, _ = sort(run, [images, other], user_embedding=[warm], keep=[99])
    assert len(all_scores) == 7 == len(everything)
    assert all_scores == sorted(all_scores, reverse=True) and all_scores[:3] == scores
    assert {batch.shape for batch in everything} == {(1, 32, 32, 3), (1, 16, 48, 3)}


def test_a_taste_that_does_not_know_how_sure_it_is_gives_the_order_alone(run, images, warm):
    draw = run("PPD_UserEmbeddingSample", user_embedding=warm, seed=1).result[0]
    (batch,), scores, report = sort(run, [images], user_embedding=[draw])
    assert "times in 100" not in report and len(scores) == 5


def test_nobody_is_the_average_person(run, images):
    _, _, report = sort(run, [images])
    assert report.startswith(
        "5 pictures sorted for the average person, best first. No picks are known yet: answer questions in the tab"
    )


def test_a_bypassed_embedding_is_the_chosen_person_and_a_batch_of_people_is_refused(run, images, warm):
    assert "the average person" in sort(run, [images], user_embedding=[None])[2]
    with pytest.raises(ValueError, match="one person to sort by, got a batch of 2"):
        sort(run, [images], user_embedding=[(warm, warm)])


def test_an_embedding_of_an_encoder_that_is_not_here(run, images, warm):
    from dataclasses import replace

    with pytest.raises(ValueError, match="taste encoder vlm .*which is not here: put its folder into models/taste_enc"):
        sort(run, [images], user_embedding=[replace(warm, encoder="vlm", encoder_hash="1" * 64)])


def test_what_comes_from_another_node_is_not_checked_before(node_classes, comfy_folders):
    for name, nothing in (("PPD_SortByTaste", [None]), ("PPD_MyTaste", None)):
        node = node_classes[name]
        assert node.validate_inputs(person=nothing) is True
        assert node.fingerprint_inputs(person=nothing) != node.fingerprint_inputs(person=nothing)
