"""The report of a fault that people copy: enough to see what broke, and nothing that is theirs."""

from __future__ import annotations

import importlib

import pytest
import torch

import ppd

pytestmark = pytest.mark.comfyui
SECRETS = ("Aki", "a castle at night", "/home/aki", "C:\\Users\\aki", "castle.safetensors")


def failed(kind: str, node: str) -> dict:
    """A run's entry in ComfyUI's history, as its executor writes it."""
    traceback = [
        '  File "/home/aki/ComfyUI/execution.py", line 12, in execute\n    output = run("a castle at night")\n',
        '  File "C:\\Users\\aki\\pack\\ppd\\lora.py", line 34, in write_lora\n    raise ValueError(name)\n',
    ]
    told = {"node_id": "3", "node_type": node, "exception_type": kind, "traceback": traceback, "current_inputs": {}}
    told |= {"exception_message": "castle.safetensors of Aki cannot be written", "executed": []}
    messages = [["execution_start", {"prompt_id": "1"}], ["execution_error", told]]
    return {"prompt": [1, "1", {"3": {"inputs": {"text": SECRETS[1]}}}], "status": {"messages": messages}}


@pytest.fixture
def lines(pack):
    return importlib.import_module("ppd_pack.nodes.report").lines


def test_it_says_what_broke_and_nothing_of_anybody(lines):
    history = {
        "1": failed("KeyError", "KSampler"),
        "2": failed("ValueError", "PPD_SaveTasteAsLoRA"),
        "3": {"status": None},
    }
    text = "\n".join(lines(history))
    assert f"Personalized diffusion {ppd.__version__}, ComfyUI 0." in text and f"torch {torch.__version__}" in text
    assert text.endswith(
        "Last error: ValueError in PPD_SaveTasteAsLoRA\n  execution.py:12 execute\n  lora.py:34 write_lora"
    )
    assert [secret for secret in SECRETS if secret in text] == [] and "/" not in text.partition("Last error")[2]


def test_without_a_failed_run(lines):
    assert lines({})[-1] == "No run has failed since ComfyUI was started."
    assert lines({})[-2].startswith("Models in memory: ")


def test_a_missing_package_is_said(lines, monkeypatch):
    module = importlib.import_module("ppd_pack.nodes.report")
    monkeypatch.setattr(module, "PACKAGES", ("safetensors", "no-such-package"))
    assert "no-such-package missing" in lines({})[3]
