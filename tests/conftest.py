"""What all tests need: import paths, ComfyUI, and tiny real models in the shipped files' formats."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:  # several torches that each take every core are many times slower; for child processes as well
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))
ROOT = Path(__file__).resolve().parents[1]
if sys.dont_write_bytecode:  # beside the sources; else every worker and server would compile all of ComfyUI anew
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(ROOT / ".pytest_cache" / "bytecode")
    os.environ.update(PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=sys.pycache_prefix)

import numpy as np
import pytest
import torch
from PIL import Image

VOCABULARY = "a quiet lake with a red boat under the moon , house hill"


def load_module(name: str, path: Path) -> ModuleType:
    """A module by its file, as ComfyUI loads a pack: known in sys.modules, with nothing added to sys.path."""
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


# The root has an __init__.py and a folder `nodes`, and ComfyUI a module `nodes`: ComfyUI's must be found, so the root
# comes last, wherever pytest was started and with whatever it put first.
sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != ROOT] + [str(ROOT)]
_run = load_module("ppd_run_for_tests", ROOT / "run.py")
try:
    COMFYUI = _run.find_comfyui(os.environ, ROOT, Path.home())
except _run.SetupError as error:
    raise pytest.UsageError(str(error)) from error
if COMFYUI:
    sys.path.insert(0, str(COMFYUI))
    if not torch.cuda.is_available():
        import comfy.cli_args

        comfy.cli_args.args.cpu = True  # before any other module of ComfyUI looks for a GPU


class RootIsNotAPackage:
    """Keeps pytest from importing the root's __init__.py as the package that the tests are in."""

    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(RootIsNotAPackage())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not COMFYUI:
        for item in items:
            if item.get_closest_marker("comfyui"):
                item.add_marker(pytest.mark.skip(reason="no ComfyUI found"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "no ComfyUI found" in str(r.longrepr)]
    if skipped:
        line = f"{len(skipped)} TESTS WERE SKIPPED: no ComfyUI found. Set COMFYUI_PATH to a checkout to run them."
        terminalreporter.write_line(line, yellow=True, bold=True)


@pytest.fixture(scope="module", autouse=True)
def what_is_there_stays():
    """Spare the collector all that was there before a module's tests: ComfyUI collects with each model that it loads,
    which takes longer than small models do. Nor is it looked through again for the next module: nearly all of it are
    libraries, and what the module before has left is looked through here."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """The ComfyUI under test."""
    if not COMFYUI:
        pytest.skip("no ComfyUI found")
    return COMFYUI


@pytest.fixture(scope="session")
def node_pack(comfyui_path: Path) -> Callable[..., ModuleType]:
    """Loads a module of another pack that is installed in the ComfyUI under test, or skips the test."""

    def load(module: str, afresh: bool = False) -> ModuleType:
        path = comfyui_path / "custom_nodes" / module
        if not path.is_file():
            pytest.skip(f"no {path.parent.name} in ComfyUI's custom_nodes")
        name = path.parent.name.replace("-", "_")
        return load_module(name, path) if afresh or name not in sys.modules else sys.modules[name]

    return load


@pytest.fixture(scope="session")
def pack(comfyui_path: Path) -> ModuleType:
    """The pack, loaded as ComfyUI does it, under the name `ppd_pack`; its nodes are registered with nothing."""
    return sys.modules.get("ppd_pack") or load_module("ppd_pack", ROOT / "__init__.py")


@pytest.fixture(scope="session")
def node_classes(pack: ModuleType) -> dict[str, type]:
    """Node id to class."""

    async def node_list() -> list[Any]:
        return await (await pack.comfy_entrypoint()).get_node_list()

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(node_list())}


@pytest.fixture(scope="session")
def pocket_base_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pocket base with random weights at a small width, made with the real classes in the real file's format."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from ppd.pocket.autoencoder import PocketAutoencoder
    from ppd.pocket.base_file import write_base

    unet_config = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [32, 64],
        "down_block_types": ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2,
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "norm_num_groups": 32,
    }
    text_config = {
        "vocab_size": 49408,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "bos_token_id": 49406,
        "eos_token_id": 49407,
    }
    metadata: dict[str, Any] = {
        "unet_config": unet_config,
        "text_config": text_config,
        "vae_config": {"latent_channels": 4, "width": 16, "fine_width": 8},
        "scheduler_config": {
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "prediction_type": "epsilon",
        },
        "latent_scale": 0.8,
        "latent_rgb_factors": [[0.1, 0.2, 0.3], [0.2, 0.1, 0.0], [0.0, -0.2, 0.1], [-0.1, 0.0, 0.2]],
        "latent_rgb_bias": [0.05, 0.0, -0.05],
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**unet_config)
        text = CLIPTextModel(CLIPTextConfig(**text_config))
        vae = PocketAutoencoder(**metadata["vae_config"])
    path = tmp_path_factory.mktemp("pocket") / "pocket_base.safetensors"
    write_base(path, unet.state_dict(), text.state_dict(), vae.state_dict(), vocabulary_ids(), metadata)
    return path


def vocabulary_ids() -> torch.Tensor:
    """Token ids of VOCABULARY, with start and end."""
    from open_clip.tokenizer import SimpleTokenizer

    return torch.tensor(sorted({49406, 49407, *SimpleTokenizer().encode(VOCABULARY)}))


@pytest.fixture(scope="session")
def weights(pocket_base_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the pack's `weights`: random pocket base, encoder, prior and adapter, and two example people."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    from ppd.adapters import CrossAttentionAdapter, CrossAttentionConfig
    from ppd.encoders.encoder import PosteriorEncoder, TasteEncoder
    from ppd.encoders.features import PictureFeatures
    from ppd.encoders.looks import Looks
    from ppd.encoders.population import PopulationPrior
    from ppd.encoders.towers.open_clip import save_encoder
    from ppd.pocket.base_file import read_base
    from ppd.pocket.studio import ENCODER

    folder = pocket_base_file.parent
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        tower = CLIP(
            16, CLIPVisionCfg(**vision), CLIPTextCfg(context_length=4, vocab_size=8, width=8, heads=1, layers=1)
        )
        (folder / ENCODER).mkdir(parents=True)
        features = save_encoder(
            folder / ENCODER / "tower.safetensors",
            tower.visual,
            {"embed_dim": 16, "vision_cfg": vision},
            name="pocket-clip",
            mean=[0.5, 0.5, 0.5],
            std=[0.25, 0.25, 0.25],
        )
        prior = PopulationPrior(
            mean=torch.randn(6),
            covariance=torch.eye(6),
            center=torch.zeros(16),
            basis=torch.randn(16, 6),
            encoder=features.name,
            encoder_hash=features.weight_hash,
        )
        steps = torch.eye(2, 6)
        looks = Looks(("warmth", "light"), ("cold", "dark"), ("warm", "pale"), steps, steps.clone(), torch.ones(2))
        reference = {"kind": "folder", "name": features.name, "hash": features.weight_hash}
        TasteEncoder(reference, prior, looks).save(folder / ENCODER)
        base = read_base(pocket_base_file)
        queries = [name for name in base.denoiser if name.endswith("attn2.to_q.weight")]
        order = sorted(queries, key=lambda name: ("down", "up_b", "mid_").index(name[:4]))
        adapter = CrossAttentionAdapter(
            CrossAttentionConfig(
                family="pocket",
                encoder=features.name,
                encoder_hash=PosteriorEncoder(PictureFeatures(features), prior).weight_hash,
                embedding_dim=6,
                layers=tuple(base.denoiser[name].shape[0] for name in order),
                tokens=3,
                token_dim=8,
                hidden=16,
            )
        )
        for layer in adapter.layers:
            torch.nn.init.normal_(layer.get_parameter("to_v_user.weight"), std=0.3)
    adapter.save(folder / "adapters" / "pocket.safetensors")
    for seed, person in enumerate(("warm", "calm")):
        write_example(folder / "examples" / person, seed)
    return folder


@pytest.fixture(scope="session")
def ip_adapter_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes IP-Adapters of random weights in the published files' layout: kind "plain" or "plus", the widths of the
    denoiser's layers, and the width of its context."""
    from safetensors.torch import save_file

    def write(kind: str, widths: Sequence[int], context: int) -> Path:
        generator = torch.Generator().manual_seed(3)

        def draw(*shape: int, scale: float = 0.05) -> torch.Tensor:
            return torch.randn(*shape, generator=generator) * scale

        image = plain_projector(draw, context) if kind == "plain" else resampler(draw, context)
        tensors = {f"image_proj.{name}": value for name, value in image.items()}
        for number, width in enumerate(widths):
            for which in "kv":
                tensors[f"ip_adapter.{2 * number + 1}.to_{which}_ip.weight"] = draw(width, context)
        path = tmp_path_factory.mktemp("ip") / f"ip-adapter_{kind}.safetensors"
        save_file(tensors, path)
        return path

    return write


Draw = Callable[..., torch.Tensor]


def plain_projector(draw: Draw, context: int) -> dict[str, torch.Tensor]:
    image = {"proj.weight": draw(4 * context, 1024), "proj.bias": draw(4 * context)}
    return image | {"norm.weight": 1 + draw(context), "norm.bias": draw(context)}


def resampler(draw: Draw, context: int, width: int = 128, depth: int = 4) -> dict[str, torch.Tensor]:
    image = {"latents": draw(1, 16, width, scale=1.0)}
    for name, rows, columns in (("proj_in", width, 1280), ("proj_out", context, width)):
        image |= {f"{name}.weight": draw(rows, columns), f"{name}.bias": draw(rows)}
    image |= {"norm_out.weight": 1 + draw(context), "norm_out.bias": draw(context)}
    linears = {"0.to_q": (192, width), "0.to_kv": (384, width), "0.to_out": (width, 192)}
    linears |= {"1.1": (4 * width, width), "1.3": (width, 4 * width)}
    for layer in range(depth):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            image |= {f"layers.{layer}.{norm}.weight": 1 + draw(width), f"layers.{layer}.{norm}.bias": draw(width)}
        image |= {f"layers.{layer}.{name}.weight": draw(*shape, scale=0.2) for name, shape in linears.items()}
    return image


def write_example(folder: Path, seed: int, pairs: int = 4, size: int = 64) -> None:
    """A preference set of noise pictures, the chosen ones warmer for an even seed, colder for an odd one."""
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(pairs):
        row = {"id": f"pair-{number}", "prompt": "a quiet lake"}
        for role, warmth in (("chosen", 60), ("rejected", -60)):
            pixels = generator.integers(60, 190, (size, size, 3)).astype(np.int16)
            pixels[..., 0] += warmth * (-1 if seed % 2 else 1)
            row[role] = f"images/{number}-{role}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / row[role])
        rows.append(json.dumps(row))
    (folder / "pairs.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
