from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load_run():
    specification = importlib.util.spec_from_file_location("ppd_run", ROOT / "run.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


run = load_run()


def make_comfyui(folder: Path, requirements: str = "torch\ntorchaudio\naiohttp\n") -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfy" / "model_patcher.py").touch()
    (folder / "requirements.txt").write_text(requirements)
    return folder


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Requirement files of two purposes and a virtual environment that has its Python; pip calls are recorded."""
    demo, test = tmp_path / "requirements-demo.txt", tmp_path / "requirements-dev.txt"
    demo.write_text("torch==2.11.0\ntorchvision==0.26.0\nnumpy\n")
    test.write_text("-r requirements-demo.txt\ntorchaudio==2.11.0\npytest\n")
    monkeypatch.setattr(run, "REQUIREMENTS", {"demo": demo, "test": test})
    venv = tmp_path / ".venv"
    run.venv_python(venv).parent.mkdir(parents=True)
    run.venv_python(venv).touch()
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(run, "pip_install", lambda venv, *arguments: calls.append(arguments))
    monkeypatch.setattr(run, "npm_install", lambda venv: None)
    return venv, calls


def test_comfyui_path_comes_first(tmp_path):
    named, around = make_comfyui(tmp_path / "named"), make_comfyui(tmp_path / "around")
    root = around / "custom_nodes" / "a-pack"
    assert run.find_comfyui({"COMFYUI_PATH": str(named)}, root, tmp_path) == named
    assert run.find_comfyui({"COMFYUI_PATH": ""}, root, tmp_path) == around


def test_the_comfyui_around_the_pack_comes_before_the_one_at_home(tmp_path):
    around, home = make_comfyui(tmp_path / "around"), tmp_path / "home"
    at_home = make_comfyui(home / "comfy" / "ComfyUI")
    assert run.find_comfyui({}, around / "custom_nodes" / "a-pack", home) == around
    assert run.find_comfyui({}, tmp_path / "elsewhere", home) == at_home
    assert run.find_comfyui({}, tmp_path / "elsewhere", tmp_path) is None


def test_a_wrong_comfyui_path_is_an_error(tmp_path):
    with pytest.raises(run.SetupError, match="no ComfyUI checkout: correct it or unset it"):
        run.find_comfyui({"COMFYUI_PATH": str(tmp_path)}, tmp_path, tmp_path)


def test_installs_once_until_a_requirement_file_changes(machine, tmp_path):
    venv, calls = machine
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    assert not run.is_installed(venv, "test", comfyui)
    run.install(venv, "test", comfyui)
    assert run.is_installed(venv, "test", comfyui)
    assert run.is_installed(venv, "demo", None), "the tests' requirements include the demo's"

    assert not run.is_installed(venv, "test", None), "another ComfyUI has other requirements"
    (comfyui / "requirements.txt").write_text("torch\naiohttp\nblake3\n")
    assert not run.is_installed(venv, "test", comfyui)
    run.install(venv, "test", comfyui)
    run.REQUIREMENTS["demo"].write_text("torch==2.11.0\n")
    assert not run.is_installed(venv, "test", comfyui), "included files count"
    assert not run.is_installed(venv, "demo", None)
    assert len(calls) == 4


def test_the_demo_does_not_satisfy_the_tests(machine):
    venv, calls = machine
    run.install(venv, "demo", None)
    assert run.is_installed(venv, "demo", None)
    assert not run.is_installed(venv, "test", None)
    assert calls == [("-r", str(run.REQUIREMENTS["demo"]))]


def test_a_lost_python_means_not_installed(machine):
    venv, _ = machine
    run.install(venv, "demo", None)
    run.venv_python(venv).unlink()
    assert not run.is_installed(venv, "demo", None)


def test_a_failed_installation_leaves_no_stamp(machine, monkeypatch):
    venv, _ = machine
    run.install(venv, "test", None)

    def fail(venv, *arguments):
        raise run.SetupError("pip stopped")

    monkeypatch.setattr(run, "pip_install", fail)
    with pytest.raises(run.SetupError):
        run.install(venv, "test", None)
    assert not run.is_installed(venv, "test", None)
    assert not run.is_installed(venv, "demo", None)


def test_comfyui_keeps_the_torch_trio(machine, tmp_path):
    venv, calls = machine
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    run.install(venv, "test", comfyui)
    constraints = Path(calls[1][-1])
    assert calls[1] == ("-r", str(comfyui / "requirements.txt"), "-c", str(constraints))
    assert sorted(constraints.read_text().split()) == ["torch==2.11.0", "torchaudio==2.11.0", "torchvision==0.26.0"]


def test_the_pinned_trio_matches():
    assert sorted(run.torch_pins(run.REQUIREMENTS["test"])) == [
        "torch==2.11.0",
        "torchaudio==2.11.0",
        "torchvision==0.26.0",
    ]


def test_managers_requirements_leave_comfyuis_own_packages_alone():
    names = [re.match(r"[\w-]+", line)[0].lower() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    shipped = {"torch", "torchvision", "torchaudio", "torchsde", "transformers", "safetensors", "numpy", "pillow"}
    assert not shipped & set(names)


def test_the_version_is_stated_twice_and_agrees():
    declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert re.search(r'^__version__ = "(.+)"', (ROOT / "ppd" / "__init__.py").read_text(), re.MULTILINE)[1] == declared


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "expected demo, test or setup, got nothing"),
        (["tset"], "expected demo, test or setup, got tset"),
        (["setup", "now"], "setup takes no arguments, got now"),
    ],
)
def test_wrong_commands_say_so_in_one_sentence(arguments, sentence):
    result = subprocess.run([sys.executable, ROOT / "run.py", *arguments], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith(f"run.py: {sentence}")
    assert len(result.stderr.splitlines()) == 1


def test_a_broken_pip_call_names_its_arguments(tmp_path):
    """The pip of this interpreter, asked for a file that is not there: no network."""
    python = run.venv_python(tmp_path)
    python.parent.mkdir(parents=True)
    if os.name == "nt":
        pytest.skip("Windows needs privileges for links")
    python.symlink_to(sys.executable)
    with pytest.raises(run.SetupError, match=r"pip stopped with code \d+ .* -r no-such-file.txt"):
        run.pip_install(tmp_path, "-r", "no-such-file.txt")
