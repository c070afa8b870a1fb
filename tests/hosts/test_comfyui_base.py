"""Bases for training, loaded by ComfyUI's own loaders from ordinary files, without a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ppd.hosts.comfyui_base import PACK, find_comfyui, load_checkpoint, load_parts
from tests.server.model_files import write_checkpoint, write_random

from .test_comfyui_low_rank import adapter_for, person
from .tiny_models import Tiny, at_random

if find_spec("comfy"):
    from comfy.taesd.taesd import TAESD

    from ppd.hosts.comfyui_denoisers import family_of
    from ppd.hosts.comfyui_training import ComfyUIDenoiser, reader

FLUX = Tiny(
    "Flux",
    {
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "hidden_size": 128,
        "num_heads": 1,
        "axes_dim": [16, 56, 56],
        "context_in_dim": 768,
        "vec_in_dim": 768,
        "depth": 1,
        "depth_single_blocks": 1,
        "mlp_ratio": 4.0,
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": True,
        "txt_ids_dims": [],
    },
)
"""Flux as narrow as the loader takes it: its heads are 128 wide."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An SD1.5 checkpoint, its text encoder (which has one size) alone, a Flux and a VAE."""
    folder = tmp_path_factory.mktemp("files")
    write_checkpoint(folder / "sd15.safetensors", "sd15", text_encoder=True)
    prefix = "cond_stage_model.transformer."
    checkpoint = load_file(folder / "sd15.safetensors")
    text = {name.removeprefix(prefix): x for name, x in checkpoint.items() if name.startswith(prefix)}
    save_file(text, folder / "clip.safetensors")
    save_file(at_random(FLUX).model.diffusion_model.state_dict(), folder / "flux.safetensors")
    write_random(folder / "vae.safetensors", {name: x for name, x in TAESD().state_dict().items() if x.ndim})
    yield folder
    for path in folder.iterdir():
        path.unlink()  # half a gigabyte


@pytest.mark.comfyui
def test_a_checkpoint_is_ready_to_train_on(files):
    base = load_checkpoint(find_comfyui(), files / "sd15.safetensors")
    assert family_of(base.model) == "sd15" and base.vae is not None
    denoiser = ComfyUIDenoiser(base.model, reader(base.clip), (4, 16, 16), checkpointing=True)
    context = denoiser.text(["a lake", "a house on a hill"])[np.arange(2)]
    assert context[0].conditions["c_crossattn"].shape == (2, 77, 768)
    adapter = adapter_for(base.model).requires_grad_(True)
    x, sigma = torch.randn(2, 4, 16, 16), torch.tensor([3.0, 1.0])
    with denoiser.plain_attention(), denoiser.host(adapter).personalized(person().u[None]):
        denoiser.predict(x, sigma, context).square().mean().backward()
    assert all(site.up.grad.any() and site.up.grad.isfinite().all() for site in adapter.parts())
    assert not any(weight.requires_grad for weight in base.model.model.parameters())


SCRIPT = """
import json, sys
from pathlib import Path
from ppd.hosts.comfyui_base import find_comfyui, load_parts

folder = Path(sys.argv[2])
base = load_parts(find_comfyui(), folder / "flux.safetensors", [folder / "clip.safetensors"], "stable_diffusion",
    folder / "vae.safetensors")
network = base.model.model.diffusion_model
text = base.clip.encode_from_tokens(base.clip.tokenize("a lake"))
picture = base.vae.decode(__import__("torch").zeros(1, 4, 2, 2))
print(json.dumps([type(network).__name__, network.hidden_size, list(text.shape), list(picture.shape)]))
"""


def in_a_new_python(script, *arguments, **environment):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(PACK), **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=PACK)


@pytest.mark.comfyui
def test_parts_are_loaded_by_a_program_with_arguments_of_its_own(files):
    done = in_a_new_python(SCRIPT, "--listen-to-me", files, COMFYUI_PATH=str(find_comfyui()))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["Flux", 128, [1, 77, 768], [1, 16, 16, 3]]


@pytest.mark.comfyui
def test_files_that_are_none_of_the_kind_are_refused_in_a_sentence(files, tmp_path):
    comfyui, clip = find_comfyui(), [files / "clip.safetensors"]
    with pytest.raises(ValueError, match=r"nothing.safetensors is no checkpoint: name a file with the ending"):
        load_checkpoint(comfyui, tmp_path / "nothing.safetensors")
    (tmp_path / "old.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"old.ckpt is no diffusion model: name a file with the ending .safetensors"):
        load_parts(comfyui, tmp_path / "old.ckpt", clip, "flux")
    (tmp_path / "damaged.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"ComfyUI could not load damaged.safetensors as a checkpoint \("):
        load_checkpoint(comfyui, tmp_path / "damaged.safetensors")
    with pytest.raises(ValueError, match=r"vae.safetensors as a diffusion model \(.*name another file, or update"):
        load_parts(comfyui, files / "vae.safetensors", clip, "flux")
    with pytest.raises(ValueError, match="no kind of text encoder 'latin': use one of .*flux.*qwen_image"):
        load_parts(comfyui, files / "flux.safetensors", clip, "latin")
    with pytest.raises(ValueError, match="flux.safetensors has no text encoder: name it as the diffusion model"):
        load_checkpoint(comfyui, files / "flux.safetensors")
    with pytest.raises(ValueError, match="needs a text encoder: name its file"):
        load_parts(comfyui, files / "flux.safetensors", [], "flux")
    with pytest.raises(ValueError, match="flux.safetensors as a VAE"):
        load_parts(comfyui, files / "flux.safetensors", clip, "flux", files / "flux.safetensors")


def a_comfyui(folder):
    (folder / "comfy").mkdir(parents=True)
    (folder / "comfy" / "model_patcher.py").touch()
    return folder


def test_comfyui_is_found_where_people_have_it(tmp_path):
    with pytest.raises(ValueError, match="No ComfyUI was found .*: set COMFYUI_PATH to its folder"):
        find_comfyui({"COMFYUI_PATH": str(tmp_path)})
    named, home = a_comfyui(tmp_path / "named"), a_comfyui(tmp_path / "comfy" / "ComfyUI")
    assert find_comfyui({"COMFYUI_PATH": str(named)}, tmp_path) == named
    assert find_comfyui({}, tmp_path) in (home, *(parent for parent in PACK.parents))


def test_a_python_without_comfyuis_requirements_is_told_so(tmp_path):
    folder = a_comfyui(tmp_path / "ComfyUI")
    (folder / "comfy" / "cli_args.py").write_text("import something_it_requires")
    script = f"from ppd.hosts.comfyui_base import *\nuse_comfyui(Path({str(folder)!r}))"
    done = in_a_new_python(script)
    assert "does not start in this Python (No module named 'something_it_requires'): use the one" in done.stderr
