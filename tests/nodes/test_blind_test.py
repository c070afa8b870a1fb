"""Blind Test and Test Prompts: what they take, what they refuse, and that running them again is the same test."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from ppd.pictures import Picture

pytestmark = pytest.mark.comfyui
if find_spec("comfy"):
    from comfy_execution.utils import CurrentNodeContext
    from server import PromptServer


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
    assert sorted(one.prompt for one in new) == ["a hill", "a lake"]
    assert test.arms == ("plain model", "my taste") and test.notes == {"picks": 0, "taste_encoder": "pocket"}
    assert out.ui["ppd_blind_test"] == [{"id": test.id, "person": test.person}]
    assert "waits for me: at most 3 questions, 1 of them asked twice" in out.result[0]
    assert "There are 4 pictures of each way for 2 prompts" in out.result[0]
    assert out.result[0].endswith("at most 2 questions of each two ways can count.")


@pytest.mark.parametrize(("prompts", "told"), [(["a lake"], "at most 1 question of each"), (["a", "b", "c"], None)])
def test_one_batch_has_one_prompt_or_one_a_picture(blind, store, prompts, told):
    out = blind(images_a=images(3, 1), images_b=images(3, 2), prompts=prompts)
    assert told in out.result[0] if told else "can count" not in out.result[0]
    assert {one.prompt for one in only_test(store).trials} == set(prompts)


def test_three_ways_are_compared_two_by_two(blind, store):
    blind(
        images_a=images(4, 1),
        images_b=images(4, 2),
        images_c=images(4, 3),
        name_c="hers",
        questions=9,
        prompts=list("abcd"),
    )
    test = only_test(store)
    new = [tuple(sorted(one.arms)) for one in test.trials if one.repeats is None]
    assert test.arms[2] == "hers" and [new.count(pair) for pair in ((0, 1), (0, 2), (1, 2))] == [3, 3, 3]


def test_running_it_again_is_the_same_test_until_the_result_was_seen(blind, store):
    for again in (False, True):
        out = blind(images_a=images(3, 1), images_b=images(3, 2))
        assert ("has been there before" in out.result[0]) == again
        assert "me has not picked yet, so what is tested is the average taste." in out.result[0]
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
        ({"images_b": images(2)}, "There are 3 in images_a, 2 in images_b: paint the same prompts and seeds"),
        ({"prompts": ["a", "b"]}, "one for each of 1 batches or 3 pictures, got 2"),
        ({"prompts": [" "]}, "none of them empty: connect the list of Test Prompts"),
        ({"name_a": "My  Taste"}, "compares 2 ways that have 1 different names: give two or three"),
        ({"name_b": "my taste " * 5}, "The name of way 2 has 44 characters: give 1 to 40"),
        ({"images_b": images(3, 1)}, "All ways have painted the same pictures, so there is nothing to ask"),
        ({"images_b": torch.full((3, 12, 16, 3), torch.nan)}, "no numbers"),
    ],
)
def test_what_makes_no_test_is_refused(blind, store, inputs, told):
    with pytest.raises(ValueError, match=told) as refused:
        blind(**{"images_a": images(3, 1), "images_b": images(3, 2), **inputs})
    assert "plain model" not in str(refused.value) and "my taste" not in str(refused.value).lower()
    me = store.person_called("me")
    assert me is None or store.tests(me.id) == []


def test_prompts_come_one_a_line_and_apart_from_the_taste(run, store):
    out = run("PPD_TestPrompts", prompts="a lake\n\n  a   hill \na lake\n", person="me")
    assert out.result[0] == ["a lake", "a hill"]
    with pytest.raises(ValueError, match="There is no prompt to test by"):
        run("PPD_TestPrompts", prompts=" \n", person="me")
    me = store.add_person("me").id
    pictures = [Picture.from_tensor(one) for one in images(2)]
    candidate = store.add_candidate(me, "A hill", *pictures)
    assert run("PPD_TestPrompts", prompts="a hill", person="me").result[0] == ["a hill"]
    store.pick(candidate, "first", "r")
    with pytest.raises(ValueError, match="Prompt 2 was answered when this taste was learned"):
        run("PPD_TestPrompts", prompts="a lake\na hill", person="me")


def test_the_words_of_a_refused_prompt_are_at_the_node_and_in_no_log(run, blind, store, caplog, monkeypatch):
    """ComfyUI logs what a node raises with its traceback, as is done here."""
    me = store.add_person("me").id
    store.pick(
        store.add_candidate(me, "a steampunk boat", *(Picture.from_tensor(one) for one in images(2))), "first", "r"
    )
    told = []
    server = SimpleNamespace(
        send_progress_text=lambda text, node: told.append((node, text)), send_sync=lambda *given: None
    )
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)
    prompts = {"prompts": ["a lake", "a steampunk boat"]}
    for node, works in (
        ("7", lambda: run("PPD_TestPrompts", prompts="\n".join(prompts["prompts"]), person="me")),
        ("8", lambda: blind(images_a=images(2, 1), images_b=images(2, 2), **prompts)),
    ):
        with CurrentNodeContext("prompt", node), pytest.raises(ValueError, match="^Prompt 2 was answered") as refused:
            works()
        logging.error("", exc_info=refused.value)
        assert told.pop() == (node, "Answered when this taste was learned: a steampunk boat") and not told
    assert "Prompt 2 was answered" in caplog.text and "steampunk boat" not in caplog.text


def test_picks_make_the_nodes_look_again(node_classes, store):
    me = store.add_person("me").id
    prompts, blind = node_classes["PPD_TestPrompts"], node_classes["PPD_BlindTest"]
    before = prompts.fingerprint_inputs(person="me"), blind.fingerprint_inputs(person=["me"])
    store.set_half_life(me, 5)
    after = prompts.fingerprint_inputs(person="me"), blind.fingerprint_inputs(person=["me"])
    assert all(one != other for one, other in zip(before, after, strict=True))
