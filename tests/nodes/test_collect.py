"""Collect Preferences, and Sample User Embedding."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.comfyui
ID = "PPD_PreferenceCollector"


def images(count, seed=0):
    return torch.rand(count, 16, 24, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def collect(node_classes, comfy_folders):
    """Runs the node with the prompt that ComfyUI hides in it."""

    def execute(**inputs):
        from comfy_api.latest import io

        node = node_classes[ID]
        hidden = io.HiddenHolder.from_dict({io.Hidden.prompt: {"1": {"class_type": "KSampler"}}})
        clone = node.PREPARE_CLASS_CLONE(None)
        clone.hidden = hidden
        given = {"person": "me", "prompt": "a lake", **inputs}
        return clone.execute(**{name: value if isinstance(value, list) else [value] for name, value in given.items()})

    return execute


def test_a_batch_is_asked_about_two_by_two(collect, comfy_folders):
    pictures = images(4)
    out = collect(images=pictures)
    store = comfy_folders.module.taste_store()
    (me,) = store.people()
    newest, oldest = store.inbox(me.id)
    assert [one.prompt for one in (newest, oldest)] == ["a lake"] * 2
    for candidate, start in ((oldest, 0), (newest, 2)):
        for digest, wanted in ((candidate.first, pictures[start]), (candidate.second, pictures[start + 1])):
            found = np.asarray(store_picture(store, digest))
            np.testing.assert_array_equal(found, (wanted * 255).round().to(torch.uint8).numpy())
    assert newest.origin == {"prompt": {"1": {"class_type": "KSampler"}}}
    assert out.result == ("me: questions open 2, answered 0.",)
    assert out.ui["ppd_question"] == [
        {"id": one.id, "person": me.id, "prompt": "a lake", "first": one.first, "second": one.second}
        for one in (oldest, newest)
    ]
    assert out.ui["text"] == out.result


def store_picture(store, digest):
    from ppd.pictures import Picture

    return Picture(store.picture(digest)).open()


def test_two_batches_are_asked_about_one_by_one(collect, comfy_folders):
    collect(images=images(2, 1), other_images=images(2, 2), person="Aki")
    collect(images=images(2, 1), other_images=images(2, 2), person="aki")  # the same questions again
    store = comfy_folders.module.taste_store()
    assert [(person.name, person.open) for person in store.people()] == [("Aki", 2)]


def test_whom_the_pictures_were_painted_for_is_noted(collect, run, comfy_folders):
    pairs = run("PreferencePairLoader", preference_set="example: warm").result[0]
    embedding = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]
    draws = [run("PPD_UserEmbeddingSample", user_embedding=embedding, seed=seed).result[0] for seed in (1, 2)]
    collect(images=images(2), user_embedding=draws[0], other_embedding=draws[1])
    store = comfy_folders.module.taste_store()
    (candidate,) = store.inbox(store.people()[0].id)
    assert candidate.origin["first"] == {"encoder_hash": embedding.encoder_hash, "u": draws[0].u.tolist()}
    assert candidate.origin["second"]["u"] == draws[1].u.tolist()


def test_unequal_numbers_are_refused(collect, comfy_folders):
    with pytest.raises(ValueError, match="2 images and 3 other images"):
        collect(images=images(2), other_images=images(3))
    assert comfy_folders.module.taste_store().people() == []


def test_one_picture_is_compared_with_the_last_runs(collect, comfy_folders):
    store, (one, other, third) = comfy_folders.module.taste_store(), images(3)[:, None]
    out = collect(images=one)
    assert out.ui["ppd_question"] == []
    assert out.result[0].splitlines()[1] == "One picture is kept: the next run's is compared with it."
    again = collect(images=one)
    assert "Not asked: 1 pair, since it is the last run's picture again: is the seed fixed?" in again.result[0]
    for picture, before in ((other, one), (third, other)):
        out = collect(images=picture)
        (question,) = out.ui["ppd_question"]
        for digest, wanted in ((question["first"], before), (question["second"], picture)):
            found = np.asarray(store_picture(store, digest))
            np.testing.assert_array_equal(found, (wanted[0] * 255).round().to(torch.uint8).numpy())
    assert out.result[0].splitlines()[1] == "One picture is compared with the last run's."
    (me,) = store.people()
    assert me.open == 2


def test_one_picture_is_compared_with_the_last_of_its_prompt(collect, comfy_folders):
    store, (fox, lake, hill, other_fox) = comfy_folders.module.taste_store(), images(4)[:, None]
    collect(images=fox, prompt="a fox")
    for picture, prompt, before in ((lake, "a lake", fox), (hill, "a hill", lake), (other_fox, "a fox", fox)):
        (question,) = collect(images=picture, prompt=prompt).ui["ppd_question"]
        found = np.asarray(store_picture(store, question["first"]))
        np.testing.assert_array_equal(found, (before[0] * 255).round().to(torch.uint8).numpy())
    again = collect(images=other_fox, prompt="a fox")
    assert "it is the last run's picture again" in again.result[0]


def test_an_odd_batch_is_asked_two_by_two_and_the_one_left_over_is_kept(collect, comfy_folders):
    out = collect(images=images(5))
    assert len(out.ui["ppd_question"]) == 2 and "One picture is kept" in out.result[0]
    store = comfy_folders.module.taste_store()
    kept = store.latest_picture(store.people()[0].id)
    last = (images(5)[-1] * 255).round().to(torch.uint8).numpy()
    np.testing.assert_array_equal(np.asarray(store_picture(store, kept.digest)), last)


def test_lists_are_asked_about_like_batches(collect, comfy_folders):
    """Of any sizes; each entry with the prompt and the person beside it, the last going on."""
    large = torch.rand(1, 32, 16, 3, generator=torch.Generator().manual_seed(5))
    collect(
        images=[images(1, 1), large, images(2, 2), images(2, 3)],
        prompt=["a lake", "a hill"],
        person=["Aki", "Aki", "Bo"],
    )
    store = comfy_folders.module.taste_store()
    aki, bo = store.people()
    (first,) = store.inbox(aki.id)
    assert first.prompt == "a lake" and store_picture(store, first.second).size == (16, 32)
    assert [one.prompt for one in store.inbox(bo.id)] == ["a hill", "a hill"]
    collect(images=[images(1, 7), images(1, 8)], other_images=[images(1, 9), large])
    assert [person.open for person in store.people()] == [1, 2, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_pair_of_pictures_is_not_asked(collect, comfy_folders, value):
    batch = images(6)
    batch[1] = batch[0]
    batch[2, 3, 3, 1] = value
    out = collect(images=batch)
    assert out.result[0].splitlines() == [
        "me: questions open 1, answered 0.",
        "Not asked: 1 pair, since its two pictures are the same: is a sampler bypassed, or the seed one for both?",
        "Not asked: 1 pair, since a picture holds values that are no numbers (NaN or infinite): paint it again.",
    ]
    assert len(out.ui["ppd_question"]) == 1
    none = collect(images=torch.zeros(2, 8, 8, 3), person="Bo", wait_seconds=5)  # waits for nothing
    assert none.ui["ppd_question"] == [] and "Not asked: 1 pair" in none.result[0]
    assert comfy_folders.module.taste_store().people()[0].open == 0


def test_what_shines_through_lies_on_white(collect, comfy_folders):
    """IMAGEs of four channels, and of one."""
    clear, grey = torch.zeros(1, 8, 8, 4), torch.full((1, 8, 8, 1), 0.2)
    collect(images=[clear, grey])
    store = comfy_folders.module.taste_store()
    (one,) = store.inbox(store.people()[0].id)
    assert [store_picture(store, digest).getpixel((0, 0)) for digest in (one.first, one.second)] == [
        (255, 255, 255),
        (51, 51, 51),
    ]


def test_the_same_pair_twice_is_one_question(collect):
    pictures = images(2)
    out = collect(images=torch.cat([pictures, pictures]))
    assert len(out.ui["ppd_question"]) == 1


def later(seconds, work, *arguments):
    timer = threading.Timer(seconds, work, arguments)
    timer.start()
    return timer


def test_waiting_ends_with_the_last_answer(collect, comfy_folders):
    """An answer that was there before counts."""
    store = comfy_folders.module.taste_store()
    asked = [one["id"] for one in collect(images=images(4)).ui["ppd_question"]]
    store.pick(asked[0], "tie", "before")
    started = time.monotonic()
    timer = later(0.5, store.pick, asked[1], "skip", "meanwhile")
    (report,) = collect(images=images(4), wait_seconds=60).result
    timer.join()
    assert 0.4 < time.monotonic() - started < 10
    assert report == "me: questions open 0, answered 1. Of this run's 2, answered 2."


def test_waiting_ends_where_the_person_is_deleted(collect, comfy_folders):
    store = comfy_folders.module.taste_store()
    me = store.add_person("me").id
    started = time.monotonic()
    timer = later(0.5, store.delete_person, me)
    (report,) = collect(images=images(2), wait_seconds=60).result
    timer.join()
    assert time.monotonic() - started < 10
    assert report == "me was deleted while the questions waited."


def test_waiting_ends_with_its_time(collect):
    started = time.monotonic()
    (report,) = collect(images=images(2), wait_seconds=1).result
    assert 1 <= time.monotonic() - started < 10
    assert report == "me: questions open 1, answered 0. Of this run's 1, answered 0."


def test_interrupting_ends_the_wait_and_keeps_the_question(collect, comfy_folders):
    import comfy.model_management as management

    timer = later(0.3, management.interrupt_current_processing)
    started = time.monotonic()
    with pytest.raises(management.InterruptProcessingException):
        collect(images=images(2), wait_seconds=600)
    timer.join()
    assert time.monotonic() - started < 2
    assert comfy_folders.module.taste_store().people()[0].open == 1


def test_draws_scatter_as_the_posterior_does(run):
    pairs = run("PreferencePairLoader", preference_set="example: warm").result[0]
    embedding = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0]
    draws = torch.cat([embedding.draw(seed).u for seed in range(4000)])
    torch.testing.assert_close(draws.mean(0), embedding.u[0], rtol=0, atol=0.08)
    spread = draws.T.cov().diagonal() / embedding.covariance.diagonal()
    assert 0.9 < spread.min() and spread.max() < 1.1
    assert torch.equal(embedding.draw(7).u, embedding.draw(7).u)


def test_a_draw_needs_to_know_how_sure_it_is(run):
    pairs = run("PreferencePairLoader", preference_set="example: warm").result[0]
    drawn = run("UserEmbeddingEncoder", pairs=pairs, encoder="pocket").result[0].draw(1)
    with pytest.raises(ValueError, match="does not know how sure it is"):
        run("PPD_UserEmbeddingSample", user_embedding=drawn)
