"""People in workflows: by id, by name, by a name of before; and stores that cannot be read."""

from __future__ import annotations

import importlib
import json
import time

import numpy as np
import pytest
from PIL import Image

from ppd.pictures import Picture

from .test_pairs import ID as LOADER

pytestmark = pytest.mark.comfyui


@pytest.fixture
def people(comfy_folders):
    return importlib.import_module("ppd_pack.nodes.people")


@pytest.fixture
def store(comfy_folders):
    return comfy_folders.module.taste_store()


@pytest.fixture
def load(node_classes, comfy_folders):
    """Runs Load Preference Pairs with a prompt around it; pairs and report."""

    def execute(preference_set, prompt=None, **inputs):
        from comfy_api.latest import io

        clone = node_classes[LOADER].PREPARE_CLASS_CLONE(None)
        clone.hidden = io.HiddenHolder.from_dict({io.Hidden.prompt: prompt})
        found = clone.execute(preference_set, **{"user": "", "limit": 1000, "skip_bad": False, **inputs}).result
        return found[0], found[2]

    return execute


def add_picks(store, person, count):
    from tests.store.small_stores import picture

    for number in range(count):
        candidate = store.add_candidate(person, f"prompt {number}", picture(2 * number), picture(2 * number + 1))
        store.pick(candidate, "first", f"{person} {number}")


def collector(person):
    return {"1": {"class_type": "PPD_PreferenceCollector", "inputs": {"person": person}}}


def test_lists_tell_ids_and_no_names(node_classes, store, people):
    assert people.choices() == ["tab", "me"]
    ann = store.add_person("Ann Secret")
    assert people.choices() == ["tab", "me", ann.id]
    me = store.add_person("me")
    assert people.choices() == ["tab", "me", ann.id]
    store.rename(me.id, "Myself Secret")
    assert people.choices() == ["tab", "me", ann.id]  # "me" leads to whom it led to
    assert people.find("me").id == people.find("tab").id == me.id
    told = json.dumps([node.GET_NODE_INFO_V1() for node in node_classes.values()])
    assert ann.id in told and "Secret" not in told


@pytest.mark.parametrize("called", ["id", "Ann", "ANN"])
def test_a_person_is_found_by_id_and_name_also_after_a_rename(node_classes, store, load, called):
    ann = store.add_person("Ann").id
    add_picks(store, ann, 2)
    choice = f"person: {ann if called == 'id' else called}"
    for name in ("Ann", "Anna", "Anne"):
        store.rename(ann, name)
        assert node_classes[LOADER].validate_inputs(choice) is True
        pairs, report = load(choice)
        assert len(pairs) == 2 and report.startswith(f"person: {name}: 2 pairs")
    other = store.add_person("Ann").id  # who is given the name has it from now on
    pairs, report = load("person: Ann")
    assert pairs == [] and report.startswith("person: Ann: 0 pairs")
    store.delete_person(other)
    with pytest.raises(ValueError, match="nobody called 'Ann'"):
        load("person: Ann")


def test_who_is_not_there_is_told(node_classes, store, load):
    with pytest.raises(ValueError, match="There is nobody called 'Ann' in the taste store: choose somebody"):
        load("person: Ann")
    with pytest.raises(ValueError, match="nobody called 'Ann'"):
        load("person: Ann", collector("Bo"))
    gone = store.add_person("Ann").id
    store.delete_person(gone)
    message = node_classes[LOADER].validate_inputs(f"person: {gone}")
    assert message == f"There is no person '{gone}' in the taste store: choose another, or make a new one."
    assert "There is no preference set 'input: none'" in node_classes[LOADER].validate_inputs("input: none")
    assert node_classes[LOADER].validate_inputs() is True


@pytest.mark.parametrize("made_by", ["Ann", "ann", ["7", 0]])
def test_who_is_about_to_be_made_is_nobody_yet(node_classes, load, made_by):
    assert node_classes[LOADER].validate_inputs("person: Ann") is True
    assert load("person: Ann", collector(made_by)) == ([], "person: Ann: 0 pairs on 0 prompts, 0 ties.")
    assert load("person: me") == ([], "person: me: 0 pairs on 0 prompts, 0 ties.")


def test_of_a_person_the_newest_pairs_are_read(store, load, run):
    ann = store.add_person("Ann").id
    add_picks(store, ann, 5)
    pairs, _ = load(f"person: {ann}", limit=2)
    assert [pair.prompt for pair in pairs] == ["prompt 3", "prompt 4"]
    assert len(run(LOADER, preference_set=f"person: {ann}", limit=2).result[1]) == 2
    with pytest.raises(ValueError, match="The input user is 'bo', but the pairs are of one person"):
        load(f"person: {ann}", user="bo")
    assert len(load(f"person: {ann}", user="ann")[0]) == 5


def test_lost_and_broken_pictures_of_a_person_are_left_out_and_named(store, load):
    ann = store.add_person("Ann").id
    add_picks(store, ann, 4)
    lost, broken = (store.pairs(ann)[number].chosen.path for number in (1, 2))
    lost.unlink()
    broken.write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"Pair 'pick-2': There is no picture .* restore it, or"):
        load(f"person: {ann}")
    pairs, report = load(f"person: {ann}", skip_bad=True)
    assert [pair.id for pair in pairs] == ["pick-1", "pick-4"]
    assert "Left out 2:" in report and "'pick-2'" in report and "'pick-3'" in report
    for pair in pairs:
        pair.rejected.path.unlink()
    with pytest.raises(ValueError, match="Of the person's pairs none can be used. Pair 'pick-"):
        load(f"person: {ann}", skip_bad=True)


def test_a_store_that_cannot_be_read_takes_no_node_away(node_classes, comfy_folders, people, load):
    folder = comfy_folders.user / "__ppd" / "taste"
    folder.mkdir(parents=True)
    (folder / "taste.sqlite3").write_bytes(b"noise" * 999)
    start = time.monotonic()
    for node in node_classes.values():
        json.dumps(node.GET_NODE_INFO_V1())
    assert people.choices() == ["tab", "me"]
    assert time.monotonic() - start < 5
    message = node_classes[LOADER].validate_inputs("person: me")
    assert "taste.sqlite3 is damaged, or no taste store: to begin anew, move the folder" in message
    with pytest.raises(ValueError, match="taste.sqlite3 is damaged"):
        load("person: me")


def test_a_user_folder_that_is_a_file_takes_no_node_away(node_classes, comfy_folders, people):
    (comfy_folders.user / "__ppd").write_text("")
    assert people.choices() == ["tab", "me"]
    assert "cannot be opened" in node_classes[LOADER].validate_inputs("person: me")


def test_links_in_the_folders_of_sets_lead_nowhere(comfy_folders, example):
    example("input", "deep/mine")
    (comfy_folders.input / "loop").symlink_to("loop")
    (comfy_folders.input / "round").symlink_to(comfy_folders.input, target_is_directory=True)
    (comfy_folders.input / "deep" / "up").symlink_to("..", target_is_directory=True)
    (comfy_folders.input / "all").symlink_to("/", target_is_directory=True)
    (comfy_folders.input / "alias").symlink_to("deep/mine", target_is_directory=True)
    start = time.monotonic()
    sets = [name for name in comfy_folders.module.preference_sets() if name.startswith("input")]
    assert time.monotonic() - start < 1
    assert sets == ["input: alias"]  # each folder once, by the first of its names
    (comfy_folders.input / "alias").unlink()
    assert comfy_folders.module.preference_sets()[-1] == "input: deep/mine"


def test_exports_never_share_a_folder(comfy_folders):
    names = ["a/b", "a:b", "a?b", "𠮷" * 80, "名" * 80, "..", " . "]
    folders = [comfy_folders.module.new_preference_set(name) for name in names]
    assert len(set(folders)) == len(names) and all(folder.is_dir() for folder in folders)
    assert {folder.parent for folder in folders} == {comfy_folders.datasets}


def test_without_a_browser_the_tabs_person_is_me(node_classes, store, load, run):
    """By default in both nodes, so that a graph of the API's has somebody too."""
    defaults = {name: node_classes[name].INPUT_TYPES()["optional"] for name in (LOADER, "PPD_PreferenceCollector")}
    assert defaults[LOADER]["preference_set"][1]["default"] == "person: tab"
    assert defaults["PPD_PreferenceCollector"]["person"][1]["default"] == "tab"
    assert load("person: tab") == ([], "person: me: 0 pairs on 0 prompts, 0 ties.")
    me = store.add_person("me").id
    add_picks(store, me, 2)
    pairs, report = load("person: tab")
    assert len(pairs) == 2 and report.startswith("person: me: 2 pairs")
    assert node_classes[LOADER].fingerprint_inputs("person: tab") == node_classes[LOADER].fingerprint_inputs(
        "person: me"
    )


GROUNDS = (190, 30, 0), (0, 30, 190), (190, 190, 0), (0, 0, 30), (190, 190, 190), (0, 90, 0)


def painting(seed):
    """One colour of its own, with some others: two of them differ in what anybody would see."""
    noise = np.random.default_rng(seed).integers(0, 64, (4, 4, 3), dtype=np.uint8)
    ground = np.array(GROUNDS[seed % len(GROUNDS)], dtype=np.uint8)
    return Picture.from_image(Image.fromarray(noise + ground).resize((64, 64)))


def test_the_badge_counts_what_would_be_asked(store, comfy_folders):
    interviews = importlib.import_module("ppd_pack.nodes.interviews")
    ann = store.add_person("Ann").id
    assert interviews.waiting(ann) == 0
    asked = [store.add_candidate(ann, f"prompt {n}", painting(2 * n), painting(2 * n + 1)) for n in range(3)]
    store.add_candidate(ann, "the first again", painting(1), painting(0))
    assert interviews.waiting(ann) == 4
    store.pick(asked[0], "first", "Ann picks")
    assert store.person(ann).open == 3 and interviews.waiting(ann) == 2
    store.set_encoder(ann, "gone")
    assert interviews.waiting(ann) == 3


def test_every_choice_of_people_is_marked_for_the_browser(node_classes, people, comfy_folders):
    """Else the list shows ids, and the tab's person is not put in."""
    marks = {}
    for name, node in node_classes.items():
        for kind, *options in (entry for part in node.INPUT_TYPES().values() for entry in part.values()):
            offered = {*(kind if isinstance(kind, list) else ()), *(options[0].get("options", ()) if options else ())}
            prefixes = [prefix for prefix in ("", people.PERSON) if prefix + people.TAB in offered]
            assert not prefixes or options[0][people.MARK] == prefixes[0], name
            if options and people.MARK in options[0]:
                marks[name] = options[0][people.MARK]
    assert {name for name, mark in marks.items() if mark} == {LOADER, "PPD_TrainUserAdapter"}
    assert len(marks) >= 11
