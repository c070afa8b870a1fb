"""Blind Test and Test Prompts: what they take, what they refuse, and that running them again is the same test."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.comfyui


def images(count, seed=0):
    return torch.rand(count, 12, 16, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def blind(node_classes, comfy_folders):
    """Runs the node as ComfyUI does, each input a list."""

    def execute(**inputs):
        given = {"person": "me", "prompts": ["a lake"], **inputs}
        return node_classes["PPD_BlindTest"].EXECUTE_NORMALIZED(
            **{name: value if isinstance(value, list) else [value] for name, value in given.items()}
        )

    return execute


@pytest.fixture
def store(comfy_folders):
    return comfy_folders.module.taste_store()


def only_test(store):
    (test,) = store.tests(store.person_called("me").id)
    return test


def test_batches_of_a_list_have_a_prompt_each(blind, store):
    prompts = ["a lake", "a hill"]
    out = blind(images_a=[images(2, 1), images(2, 2)], images_b=[images(2, 3), images(2, 4)], prompts=prompts)
    test = only_test(store)
    new = [one for one in test.trials if one.repeats is None]
    assert sorted(one.prompt for one in new) == ["a hill", "a hill", "a lake", "a lake"]
    assert test.arms == ("plain model", "my taste") and test.notes == {"picks": 0, "taste_encoder": "pocket"}
    assert out.ui["ppd_blind_test"] == [{"id": test.id, "person": test.person}]
    assert "waits for me: at most 5 questions, 1 of them asked twice" in out.result[0]


@pytest.mark.parametrize("prompts", [["a lake"], ["a", "b", "c"]])
def test_one_batch_has_one_prompt_or_one_a_picture(blind, store, prompts):
    blind(images_a=images(3, 1), images_b=images(3, 2), prompts=prompts)
    assert {one.prompt for one in only_test(store).trials} == set(prompts)


def test_three_ways_are_compared_two_by_two(blind, store):
    blind(images_a=images(4, 1), images_b=images(4, 2), images_c=images(4, 3), name_c="hers", questions=9)
    test = only_test(store)
    new = [tuple(sorted(one.arms)) for one in test.trials if one.repeats is None]
    assert test.arms[2] == "hers" and [new.count(pair) for pair in ((0, 1), (0, 2), (1, 2))] == [3, 3, 3]


def test_running_it_again_is_the_same_test_until_the_result_was_seen(blind, store):
    for again in (False, True):
        out = blind(images_a=images(3, 1), images_b=images(3, 2))
        assert ("has been there before" in out.result[0]) == again
    test = only_test(store)
    store.answer_trial(test.id, test.trials[0].id, "first", 1.0, "r")
    store.finish_test(test.id)
    assert (
        "me has answered this test, and seen the result"
        in blind(images_a=images(3, 1), images_b=images(3, 2)).result[0]
    )


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"images_b": images(2)}, "There are 3 of 'plain model', 2 of 'my taste': paint the same prompts and seeds"),
        ({"prompts": ["a", "b"]}, "one for each of 1 batches or 3 pictures, got 2"),
        ({"prompts": [" "]}, "none of them empty: connect the list of Test Prompts"),
        ({"name_a": "My  Taste"}, "give two or three different names"),
        ({"images_b": images(3, 1)}, "have painted the same pictures, so there is nothing to ask"),
        ({"images_b": torch.full((3, 12, 16, 3), torch.nan)}, "no numbers"),
    ],
)
def test_what_makes_no_test_is_refused(blind, store, inputs, told):
    with pytest.raises(ValueError, match=told):
        blind(**{"images_a": images(3, 1), "images_b": images(3, 2), **inputs})
    me = store.person_called("me")
    assert me is None or store.tests(me.id) == []


def test_prompts_come_one_a_line_and_apart_from_the_taste(run, store):
    out = run("PPD_TestPrompts", prompts="a lake\n\n  a   hill \na lake\n", person="me")
    assert out.result[0] == ["a lake", "a hill"]
    with pytest.raises(ValueError, match="There is no prompt to test by"):
        run("PPD_TestPrompts", prompts=" \n", person="me")
    from ppd.pictures import Picture

    me = store.add_person("me").id
    pictures = [Picture.from_tensor(one) for one in images(2)]
    candidate = store.add_candidate(me, "A hill", *pictures)
    assert run("PPD_TestPrompts", prompts="a hill", person="me").result[0] == ["a hill"]
    store.pick(candidate, "first", "r")
    with pytest.raises(ValueError, match="The prompt 'a hill' was answered when this taste was learned"):
        run("PPD_TestPrompts", prompts="a lake\na hill", person="me")


def test_picks_make_the_nodes_look_again(node_classes, store):
    me = store.add_person("me").id
    prompts, blind = node_classes["PPD_TestPrompts"], node_classes["PPD_BlindTest"]
    before = prompts.fingerprint_inputs(person="me"), blind.fingerprint_inputs(person=["me"])
    store.set_half_life(me, 5)
    after = prompts.fingerprint_inputs(person="me"), blind.fingerprint_inputs(person=["me"])
    assert all(one != other for one, other in zip(before, after, strict=True))
