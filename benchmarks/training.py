"""`python -m benchmarks.training`: what a step of training costs beside diffusers' own Diffusion-DPO script.

Both train on one UNet of SD1.5's structure (narrow on a CPU), on the same pairs, in batches of one size, each in a
process of its own: theirs is examples/research_projects/diffusion_dpo/train_diffusion_dpo.py of a clone of diffusers
(--script; it needs peft and datasets, and --libraries names a folder that holds them), with its LoRA on every
attention, of which the adapter is switched off for the reference. Ours: pictures and prompts encoded once; the default
objective on simulated people's picks, and on real people's, which have no soft labels and so the contrast of one's own
and another's u, a second pass. Each also with gradient checkpointing, which both have: memory is compared with it as
without, as a whole, and without what importing the libraries takes of each, which is no GPU's. Seconds per step are
differences of a long and a short run, so that loading does not count; rounds alternate.

Beside it: what reading pairs from disk takes of a step, and two processes against one (weak scaling).
`--parts steps` counts, on the pocket flow, the steps until held-out people are told apart as well as plain user-DPO
tells them apart at its end.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .timing import ratio_of_medians

ROOT = Path(__file__).resolve().parents[1]
NARROW: dict[str, Any] = {"widths": (80, 160, 320, 320), "vae": (32, 64, 128, 128), "text": 192, "size": 256}
FULL: dict[str, Any] = {"widths": (320, 640, 1280, 1280), "vae": (128, 256, 512, 512), "text": 768, "size": 512}
PAIRS, PEOPLE = 64, 8
SIMULATED, REAL = "simulated", "real"
"""Whose picks."""
SAVING = " checkpointed"
"""After a name: with gradient checkpointing."""
READS = 50
IMPORTS = "import accelerate; from diffusers import UNet2DConditionModel; from transformers import CLIPTextModel"


def write_checkpoint(folder: Path, sizes: dict[str, Any]) -> None:
    """A checkpoint of SD1.5's classes with random weights, as diffusers saves one."""
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from ppd.hosts.comfyui_base import find_comfyui

    torch.manual_seed(0)
    attention = ("CrossAttn",) * 3 + ("",)
    UNet2DConditionModel(
        sample_size=sizes["size"] // 8,
        block_out_channels=sizes["widths"],
        cross_attention_dim=sizes["text"],
        attention_head_dim=8,
        norm_num_groups=16,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in attention),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in attention[::-1]),
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=sizes["vae"],
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=16,
        latent_channels=4,
    ).save_pretrained(folder / "vae")
    text = CLIPTextConfig(
        hidden_size=sizes["text"], intermediate_size=4 * sizes["text"], num_attention_heads=sizes["text"] // 64
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(find_comfyui() / "comfy" / "sd1_tokenizer", model_max_length=77)
    tokenizer.save_pretrained(folder / "tokenizer")
    DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler"
    )


def write_pairs(folder: Path, size: int) -> None:
    """Made-up pairs in Pick-a-Pic's columns."""
    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    rng = np.random.default_rng(0)

    def picture() -> bytes:
        small = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        return out.getvalue()

    columns: dict[str, Any] = {
        "caption": [f"thing {n % 16} by a lake" for n in range(PAIRS)],
        "jpg_0": [picture() for _ in range(PAIRS)],
        "jpg_1": [picture() for _ in range(PAIRS)],
        "label_0": [float(n % 2) for n in range(PAIRS)],
        "label_1": [float(1 - n % 2) for n in range(PAIRS)],
    }
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "validation.parquet")


def theirs(arguments: argparse.Namespace, work: Path, steps: int, saving: bool) -> list[str]:
    """Their script's command."""
    options = {
        "pretrained_model_name_or_path": work / "checkpoint",
        "dataset_name": work / "pairs",
        "output_dir": work / "theirs",
        "resolution": arguments.sizes["size"],
        "train_batch_size": arguments.batch,
        "max_train_steps": steps,
        "rank": 16,
        "seed": 0,
        "lr_warmup_steps": 0,
        "report_to": "tensorboard",
        "mixed_precision": "bf16" if arguments.full else "no",
        "cache_dir": work / "cache",
    }
    flags = ["--gradient_checkpointing"] if saving else []
    return [str(arguments.script), *(f"--{name}={value}" for name, value in options.items()), *flags]


def ours(arguments: argparse.Namespace, work: Path, steps: int, whose: str) -> list[str]:
    """Our command: this module, for one run."""
    return ["-m", "benchmarks.training", "--one", whose, str(work), str(steps), "--batch", str(arguments.batch)]


def one(whose: str, work: Path, steps: int, batch: int) -> None:
    """Train for some steps on what lies in `work`, as `train adapter` does, as if these were simulated or real people's
    picks; and tell what reading takes."""
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from ppd.adapters import CrossAttentionAdapter, CrossAttentionConfig
    from ppd.hosts.diffusers_denoisers import cross_attentions
    from ppd.hosts.diffusers_training import DiffusersDenoiser
    from ppd.pairs import read_pairs
    from ppd.pictures import Picture
    from ppd.training.adapter import train_adapter
    from ppd.training.distributed import default_device
    from ppd.training.latent_files import encoded
    from ppd.training.picks import QueryPicks
    from ppd.training.settings import Objective

    device, folder = default_device(), work / "checkpoint"
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype).to(device)
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    pairs = list(read_pairs(work / "pairs" / "validation.parquet"))

    def read(prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
        ids = tokenizer(list(prompts), padding="max_length", max_length=77, return_tensors="pt").input_ids
        return {"encoder_hidden_states": text_encoder(ids)[0]}

    @torch.no_grad()
    def encode(pictures: Sequence[Picture]) -> torch.Tensor:
        vae = AutoencoderKL.from_pretrained(folder / "vae").to(device)
        pixels = [np.asarray(picture.open().convert("RGB"), np.float32) / 127.5 - 1 for picture in pictures]
        x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(device)
        return torch.cat([vae.encode(part).latent_dist.mean for part in x.split(4)]).cpu() * vae.config.scaling_factor

    sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    latents, rows = encoded(sides, encode, work / "latents")
    prompts = tuple(dict.fromkeys(pair.prompt for pair in pairs))
    generator = torch.Generator().manual_seed(0)
    picks = QueryPicks(
        latents,
        person=np.arange(len(pairs)) % PEOPLE,
        chosen=rows[::2],
        rejected=rows[1::2],
        caption=np.array([prompts.index(pair.prompt) for pair in pairs]),
        embeddings=torch.randn(3, PEOPLE, 32, generator=generator),
        population=torch.zeros(32),
        prompts=prompts,
        scores=torch.randn(PEOPLE, len(latents), generator=generator) if whose.startswith(SIMULATED) else None,
    )
    layers = tuple(attention.to_q.out_features for attention in cross_attentions(unet))
    config = CrossAttentionConfig(
        family="sd15", layers=layers, encoder="benchmark", encoder_hash="0" * 64, embedding_dim=32, end_percent=1.0
    )
    train_adapter(
        DiffusersDenoiser(unet, scheduler, read, checkpointing=whose.endswith(SAVING)),
        CrossAttentionAdapter(config),
        picks,
        work / f"ours-{os.getpid()}.pt",
        steps=steps,
        batch=batch,
        objective=Objective(),
    )
    index, started = torch.arange(2 * batch) % len(latents), time.perf_counter()
    for _ in range(READS):
        latents[index]
    print(json.dumps({"read_seconds": (time.perf_counter() - started) / READS}))


def run(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """A Python process's seconds, peak memory in bytes, and what it said of itself on its last line."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as told:
        process = subprocess.Popen(
            [sys.executable, *command], env=os.environ | environment, stdout=out, stderr=told, cwd=ROOT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        out.seek(0)
        told.seek(0)
        if status:
            raise SystemExit(told.read().decode(errors="replace")[-3000:])
        said = out.read().decode().strip().rpartition("\n")[2]
    return {"seconds": seconds, "peak": usage.ru_maxrss * 1024, **(json.loads(said) if said.startswith("{") else {})}


def compare(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Pairs per second and peak memory on each kind of picks beside theirs."""
    (work / "unused").mkdir()
    (work / "unused" / "wandb.py").touch()  # imported by theirs, which reports to TensorBoard here
    libraries = os.pathsep.join(str(path) for path in (work / "unused", *arguments.libraries))
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": libraries}
    short, long = arguments.steps
    without = ("theirs", SIMULATED, REAL)
    names = [*without, *(f"{name}{SAVING}" for name in without)]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, list[float]] = {name: [] for name in names}
    read = 0.0

    def took(name: str, steps: int) -> dict[str, float]:
        if name.startswith("theirs"):
            return run(theirs(arguments, work, steps, name.endswith(SAVING)), offline)
        return run(ours(arguments, work, steps, name), {})

    imports = run(["-c", IMPORTS], {})["peak"]
    run(ours(arguments, work, 1, REAL), {})  # encodes the pictures, which all others find
    for _ in range(arguments.rounds):
        for name in names:
            few, many = took(name, short), took(name, long)
            seconds[name].append((many["seconds"] - few["seconds"]) / (long - short))
            peaks[name].append(many["peak"])
            read = many.get("read_seconds", read)
        print({name: round(values[-1], 3) for name, values in seconds.items()}, flush=True)
    compared = [(name, "theirs" + name[len(name.removesuffix(SAVING)) :]) for name in names if "theirs" not in name]
    return {
        "seconds_per_step": {name: float(np.median(values)) for name, values in seconds.items()},
        "pairs_per_second_vs_diffusers": {
            name: ratio_of_medians(np.array(seconds[beside]), np.array(seconds[name])) for name, beside in compared
        },
        "peak_memory_vs_diffusers": {
            name: float(np.median(peaks[name]) / np.median(peaks[beside])) for name, beside in compared
        },
        "peak_without_imports_vs_diffusers": {
            name: float((np.median(peaks[name]) - imports) / (np.median(peaks[beside]) - imports))
            for name, beside in compared
        },
        "imports_gigabytes": imports / 2**30,
        "peak_gigabytes": {name: float(np.median(values) / 2**30) for name, values in peaks.items()},
        "loading_share": read / float(np.median(seconds[SIMULATED])),
    }


def scaling(arguments: argparse.Namespace, work: Path) -> float:
    """Pairs per second of two processes of one thread each, over twice those of one: each trains on as many pairs."""

    def seconds(steps: int, count: int) -> float:
        command = [sys.executable, *ours(arguments, work, steps, SIMULATED)]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29500 + steps), "WORLD_SIZE": str(count)}
        started, several = time.perf_counter(), []
        for rank in range(count):
            own = group | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
            environment = os.environ | {"OMP_NUM_THREADS": "1"} | (own if count > 1 else {})
            several.append(subprocess.Popen(command, env=environment, **quiet))
        if any([process.wait() for process in several]):
            raise SystemExit("A process of two failed.")
        return time.perf_counter() - started

    seconds(1, 1)  # encodes the pictures, which all others find
    short, long = arguments.steps
    one_process, two_processes = (seconds(long, count) - seconds(short, count) for count in (1, 2))
    return one_process / two_processes


def steps_to_learn(work: Path, steps: int, people: int, every: int) -> dict[str, Any]:
    """On the pocket flow: own minus another's accuracy on people and prompts that training never saw, step by step,
    of plain user-DPO and of the defaults; and the share of plain's steps that the defaults take to where it ends, None
    if they never come there. Three looks are averaged, since one is as uncertain as all that is learned."""
    from ppd.encoders.simulated import simulate
    from ppd.pocket.recipe import Recipe
    from ppd.pocket.world import POCKET_FLOW
    from ppd.training.adapter import train_adapter
    from ppd.training.measure import measure
    from ppd.training.settings import Objective
    from ppd.training.simulated_picks import simulated_picks

    from .self_training import Checkpoint

    recipe = Recipe(work, ROOT / "weights", POCKET_FLOW)
    recipe.make("pool")
    known = Checkpoint.of(recipe)
    painted, prompts = recipe.painted, known.picks.prompts
    captions = painted["captions"].numpy()
    strangers = simulate(known.prior.basis, known.looks.readings, people, seed=5)
    judged = simulated_picks(
        strangers, painted["features"], painted["latents"], None, captions, prompts, known.prior, seed=6
    )
    curves: dict[str, list[float]] = {}
    objectives: dict[str, dict[str, Any]] = {"plain": {"contrast": 0.0, "soft_labels": False}, "default": {}}
    for name, changed in objectives.items():
        adapter, curve = known.new_adapter(), curves.setdefault(name, [])

        def look(averaged: Any, step: int, name: str = name, curve: list[float] = curve) -> None:
            if step % every == 0:
                told = measure(recipe.model, averaged, judged, people=people, batch=32)
                curve.append(told["own_minus_anothers"]["mean"])
                print(name, step, round(curve[-1], 3), flush=True)

        train_adapter(
            recipe.model,
            adapter,
            known.picks,
            work / f"learn-{name}-{steps}.pt",
            steps=steps,
            learning_rate=recipe.world.learning_rate,
            objective=Objective(beta=recipe.world.beta, **changed),
            on_step=look,
        )
    steady = {name: np.convolve(curve, np.ones(3) / 3, "valid").tolist() for name, curve in curves.items()}
    reached = next((n + 3 for n, gap in enumerate(steady["default"]) if gap >= steady["plain"][-1]), None)
    share = None if reached is None else reached / len(curves["plain"])
    return {"steps_vs_plain_dpo": share, "own_minus_anothers": curves, "every": every, "people": people}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training")
    parser.add_argument("--script", type=Path, help="diffusers' train_diffusion_dpo.py")
    parser.add_argument("--libraries", type=Path, nargs="+", default=[], help="folders with peft and datasets")
    parser.add_argument("--parts", nargs="+", choices=("speed", "scaling", "steps"), default=["speed", "scaling"])
    parser.add_argument("--full", action="store_true", help="SD1.5's own width and size, for a GPU")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs=2, default=[2, 8], help="of the short and the long run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(".work-flow"), help="the pocket flow's, for steps")
    parser.add_argument("--learn", type=int, default=120, help="steps of plain user-DPO")
    parser.add_argument("--people", type=int, default=60)
    parser.add_argument("--one", nargs=3, metavar=("WHOSE", "FOLDER", "STEPS"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.one:
        whose, work, steps = arguments.one
        return one(whose, Path(work), int(steps), arguments.batch)
    arguments.sizes = FULL if arguments.full else NARROW
    report: dict[str, Any] = {"settings": {"batch": arguments.batch, "steps": arguments.steps, **arguments.sizes}}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if {"speed", "scaling"} & set(arguments.parts):
            write_checkpoint(work / "checkpoint", arguments.sizes)
            write_pairs(work / "pairs", arguments.sizes["size"])
        if "speed" in arguments.parts:
            if arguments.script is None:
                raise SystemExit("Expected --script with diffusers' train_diffusion_dpo.py, to compare with.")
            report |= compare(arguments, work)
        if "scaling" in arguments.parts:
            report["two_processes_vs_one"] = scaling(arguments, work)
    if "steps" in arguments.parts:
        report |= steps_to_learn(arguments.work, arguments.learn, arguments.people, every=10)
    print(json.dumps(report, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
