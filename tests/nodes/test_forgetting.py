"""What is left of somebody who was erased: nothing on the drive, and nothing in any module's memory."""

from __future__ import annotations

import asyncio
import importlib
from types import SimpleNamespace

import pytest
from aiohttp import web
from PIL import Image

from ppd.pictures import Picture

pytestmark = pytest.mark.comfyui
MODULES = ("forgetting", "interviews", "library", "my_taste", "study_questions")


@pytest.fixture
def nodes(comfy_folders, monkeypatch):
    """The modules that remember people, on ComfyUI's folders in a temporary place."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(comfy_folders.output))
    return SimpleNamespace(**{name: importlib.import_module(f"ppd_pack.nodes.{name}") for name in MODULES})


def love(folders, store, person, name):
    picture = Picture(folders.output / name)
    kept = store.add_picture(person, "", picture, {"folder": "output", "picture": name})
    store.rate(person, kept, "keep", f"{person} {name}")
    return picture.digest


def test_nothing_is_left_of_the_pictures_that_loved_ones_counted_against(comfy_folders, nodes):
    store = comfy_folders.module.taste_store()
    for number in range(5):
        Image.new("RGB", (16, 16), (50 * number, 0, 9)).save(comfy_folders.output / f"{number}.png")
    aki, bo = (store.add_person(name).id for name in ("Aki", "Bo"))
    loved = [love(comfy_folders, store, person, "0.png") for person in (aki, bo)]
    nodes.interviews.interview_of(aki).ask(aki)
    (comfy_folders.output / "4.png").unlink()  # what counted once is not looked up any more
    love(comfy_folders, store, aki, "1.png")
    nodes.interviews.interview_of(aki).ask(aki)
    traces = comfy_folders.module.feature_cache().parent
    assert len(list(traces.glob("features/*/*/*.npy"))) == 5
    store.delete_person(aki)
    nodes.forgetting.forget(aki)
    assert [path.stem for path in traces.glob("features/*/*/*.npy")] == loved[:1]  # which Bo has
    assert not [path for path in traces.rglob("*") if aki in path.name]


def test_no_module_remembers_who_was_erased(comfy_folders, nodes):
    store = comfy_folders.module.taste_store()
    aki, bo = (store.add_person(name).id for name in ("Aki", "Bo"))
    path = comfy_folders.output / "0.png"
    Image.new("RGB", (16, 16)).save(path)
    finished = importlib.import_module("ppd_pack.ppd.finished")
    for person in (aki, bo):
        nodes.interviews.pass_over(person, ["a", "b"])
        nodes.interviews._failed[person, "pocket"] = "why"
        nodes.study_questions._exhausted[person, "studies"] = "then"
        nodes.library._rated(person)
    finished.prompt_of(path)
    store.delete_person(aki)
    nodes.forgetting.forget(aki)
    assert set(nodes.interviews._passed) == {bo}
    assert set(nodes.interviews._failed) == {(bo, "pocket")}
    assert set(nodes.study_questions._exhausted) == {(bo, "studies")}
    assert [nodes.library._rated_at.cache_info().currsize, finished._prompts] == [0, {}]
    nodes.forgetting.forget(bo)
    assert not nodes.interviews._failed and not nodes.study_questions._exhausted
    with pytest.raises(ValueError, match="There is no person"):
        nodes.interviews.pass_over(aki, ["a", "b"])
    assert not nodes.interviews._passed


def test_all_is_tried_and_what_failed_is_raised(nodes, monkeypatch):
    dropped = []

    def fails(person):
        raise OSError(f"no {person}")

    monkeypatch.setattr(nodes.forgetting, "_all", [fails, dropped.append, fails])
    with pytest.raises(OSError, match="no aki"):
        nodes.forgetting.forget("aki")
    assert dropped == ["aki"]


@pytest.mark.parametrize("whole", [False, True])
def test_a_report_that_cannot_be_deleted_keeps_its_test_so_that_it_is_asked_again(
    comfy_folders, nodes, monkeypatch, whole
):
    routes, blind_routes = (importlib.import_module(f"ppd_pack.nodes.{name}") for name in ("routes", "blind_routes"))
    Matchup = importlib.import_module("ppd_pack.ppd.blind_questions").Matchup
    store = comfy_folders.module.taste_store()
    aki = store.add_person("Aki").id
    painted = [Picture.from_image(Image.new("RGB", (16, 16), (50 * number, 0, 9))) for number in range(2)]
    test, _ = store.add_test(aki, ["plain", "mine"], [Matchup("a lake", tuple(painted))], 4)
    store.answer_trial(test, store.test(test).trials[0].id, "first", 1.0, "r")
    folder = blind_routes._report(store.finish_test(test))
    assert (folder / "report.json").is_file()
    asked = SimpleNamespace(match_info={"person": aki, "test": test}, query={})

    def delete():
        return asyncio.run((routes.delete_person if whole else blind_routes.delete)(asked))

    def is_open(path):
        raise PermissionError(13, "is open in another program")

    with monkeypatch.context() as patched:
        patched.setattr(blind_routes.shutil, "rmtree", is_open)
        with pytest.raises(web.HTTPServiceUnavailable):
            delete()
    assert store.test(test).finished and folder.is_dir()
    assert delete().status == 200 and not folder.exists()
    with pytest.raises(ValueError, match="not there any more"):
        store.test(test)


def test_no_adapter_fitted_on_somebodys_questions_stays(nodes, monkeypatch, tmp_path):
    """What `_fitted` returns is held by the module until somebody is erased."""
    monkeypatch.setattr(nodes.my_taste, "load_ip_adapter", lambda path: path)
    monkeypatch.setattr(nodes.my_taste.comfy.clip_vision, "load", lambda path: path)
    monkeypatch.setattr(nodes.my_taste, "image_features", lambda *given: given)
    monkeypatch.setattr(nodes.my_taste, "load_encoder", lambda name: name)
    monkeypatch.setattr(nodes.my_taste, "fit_to_taste", lambda *given, **named: object())
    monkeypatch.setattr(nodes.my_taste, "manage_adapter", lambda fitted: fitted)
    given = (tmp_path / "a", tmp_path / "b", "pocket", (), "stamps")
    first = nodes.my_taste._fitted(*given)
    assert nodes.my_taste._fitted(*given) is first
    nodes.forgetting.forget("anybody")
    assert nodes.my_taste._fitted(*given) is not first
    nodes.my_taste._fitted.cache_clear()
