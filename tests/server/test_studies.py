"""The workflow of studies in the real server, on a checkpoint file by the stock loader."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from ppd.studies import noise_of, open_studies

from .model_files import write_checkpoint

pytestmark = pytest.mark.comfyui


def small(server, graphs, checkpoint, **inputs):
    """The workflow at a size of seconds."""
    settings = {"width": 64, "height": 64, "steps": 2, "count": 1} | inputs
    prompt = graphs.set_inputs(server.prompt("paint studies"), "PPD_PaintStudies", **settings)
    return graphs.set_inputs(prompt, "CheckpointLoaderSimple", ckpt_name=checkpoint)


@pytest.fixture(scope="module")
def checkpoint(server):
    """Writes a family's narrow checkpoint and returns its name; they and the studies leave the disk again."""
    folder = server.base / "models" / "checkpoints"

    def write(family):
        name = f"narrow {family} with text.safetensors"
        if not (folder / name).exists():  # a loaded one is mapped into memory
            write_checkpoint(folder / name, family, text_encoder=True)
        return name

    yield write
    server.post("/free", {"unload_models": True, "free_memory": True})
    for path in folder.glob("* with text.safetensors"):
        path.unlink()
    for description in (server.base / "datasets").glob("*/studies.json"):
        shutil.rmtree(description.parent)


def check(studies, family):
    assert studies.model["class"] == family
    for pair in studies.pairs():
        low, high = (np.asarray(entry.picture.open()) for entry in (pair.low, pair.high))
        assert low.shape == (64, 64, 3) and low.std() > 5 and not np.array_equal(low, high)
        assert pair.low.noise().equal(noise_of(pair.seed, (1, 4, 8, 8)))
        assert pair.low.latent().shape == (1, 4, 8, 8)


def test_the_workflow_paints_is_cancelled_and_goes_on(server, graphs, checkpoint):
    folder = server.base / "datasets" / "my studies"
    prompt = small(server, graphs, checkpoint("sd15"), count=3)
    (node,) = graphs.nodes_of(prompt, "PPD_PaintStudies")
    run = server.watch(prompt, interrupt_when=lambda run: len(run.previews) > 2)
    assert run.of_type("execution_interrupted") and run.interrupted_after < 30
    assert all(source == node for source, _ in run.previews)
    assert run.lines[0] == (node, "6 pictures to paint, about 0.1 MB.")
    assert re.fullmatch(r"1 of 6 pictures, .* s each, about .* and 0.1 MB to go\.", run.lines[1][1])
    kept = open_studies(folder)
    assert 1 <= len(kept.pictures) < 6
    entry = server.run(prompt)
    (report,) = entry["outputs"][node]["text"]
    assert "my studies: 3 pairs of 3 looks on 3 prompts, 6 pictures." in report
    assert f"Painted now: {6 - len(kept.pictures)} picture" in report
    studies = open_studies(folder)
    assert studies.pictures[: len(kept.pictures)] == kept.pictures
    check(studies, "SD15")


@pytest.mark.slow
def test_the_workflow_paints_with_sdxl(server, graphs, checkpoint):
    sdxl = checkpoint("sdxl")
    server.run(small(server, graphs, sdxl, studies="of sdxl", cfg=1.0))
    check(open_studies(server.base / "datasets" / "of sdxl"), "SDXL")
    server.run(small(server, graphs, checkpoint("sd15"), studies="of sd15"))
    entry = server.finished(server.submit(small(server, graphs, sdxl, studies="of sd15")))
    (error,) = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
    assert "The studies 'of sd15' were painted by SD15 with the weights" in error["exception_message"]
