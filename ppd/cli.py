"""The command line: `python -m ppd demo | encode | sample | lora | studies | make-encoder | train | evaluate | ...`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .families import PARTS
from .federated.command import add_federated_arguments
from .training.settings import add_training_arguments

WORLDS = ("pocket-flow", "pocket")
"""The first is the default."""
JUDGES = ("posterior", "vlm", "simulated")
DEMO_PROMPTS = (
    "a house and a tree in the hills under a cloud",
    "a boat by a lake with a mountain behind",
    "a lighthouse by a lake under the moon",
    "flowers on a meadow under the sun",
)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ppd", description="Personalised preference diffusion.")
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="paint one contact sheet for two people, each known from four picks")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for demo.png (default: demo)")
    demo.add_argument("--world", choices=WORLDS, default=WORLDS[0], help="the model (default: pocket-flow)")
    demo.add_argument("--seed", type=int, default=7)

    encode = commands.add_parser("encode", help="turn preference pairs into a user embedding file")
    encode.add_argument("pairs", type=Path, help="folder with pairs.jsonl, or a .jsonl or .parquet file")
    encode.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    encode.add_argument("--world", choices=WORLDS, default=WORLDS[0], help="whose taste encoder (default: pocket-flow)")
    encode.add_argument("--encoder", type=Path, help="folder of another taste encoder")
    encode.add_argument("--models", type=Path, default=Path("models"), help="ComfyUI's models, where its tower lies")
    encode.add_argument("--user", help="only this user's pairs, where the set has several users")
    encode.add_argument("--skip-bad", action="store_true", help="leave out pairs whose pictures cannot be read")
    encode.add_argument("--with-covariance", action="store_true", help="store the uncertainty too (not for sharing)")
    encode.add_argument(
        "--epsilon", type=float, help="hide each pick behind noise: differential privacy (docs/privacy.md)"
    )
    encode.add_argument("--delta", type=float, default=1e-5, help="of that privacy (default: 1e-5)")

    sample = commands.add_parser("sample", help="paint with a pocket model for a user embedding")
    sample.add_argument("--world", choices=WORLDS, default=WORLDS[0], help="the model (default: pocket-flow)")
    sample.add_argument("--user", type=Path, help="user embedding file; without one the base paints")
    sample.add_argument("--blend-with", type=Path, help="a second user embedding file")
    sample.add_argument("--blend", type=_numbers, default=[0.0, 0.25, 0.5, 0.75, 1.0], help="weights of the second")
    sample.add_argument("--prompt", required=True)
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--strength", type=_numbers, default=[1.0], help="one strength, or several for a grid")
    sample.add_argument("--steps", type=int, default=20)
    sample.add_argument("--cfg", type=float, default=4.0)
    sample.add_argument("--adapter", type=Path, help="user adapter file (default: the model's shipped one)")
    sample.add_argument("--out", type=Path, default=Path("sample.png"))

    lora = commands.add_parser("lora", help="save a taste as an ordinary LoRA file")
    lora.add_argument("--user", type=Path, required=True, help="user embedding file")
    lora.add_argument("--adapter", type=Path, required=True, help="low-rank user adapter file")
    lora.add_argument("--strength", type=float, default=1.0, help="fixed in the LoRA (default: 1)")
    lora.add_argument("--layers", choices=PARTS, default=PARTS[0], help="part of the model's layers")
    lora.add_argument("--precision", choices=["float16", "bfloat16"], default="float16")
    lora.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")

    make = commands.add_parser("make-encoder", help="make a taste encoder of studies, pictures and people's pairs")
    make.add_argument("--out", type=Path, required=True, help="its folder, new: models/taste_encoders/<name>")
    make.add_argument("--tower", required=True, help="pocket, an open_clip model's name, or a transformers folder")
    make.add_argument("--weights", help="of an open_clip model: a .safetensors file, or a tag")
    make.add_argument("--download", action="store_true", help="fetch the weights of a tag")
    make.add_argument("--studies", type=Path, help="folder of studies, as Paint Studies makes it")
    make.add_argument("--pictures", type=Path, help="any folder of pictures, such as ComfyUI's output")
    make.add_argument("--pairs", type=Path, help="preference set of many people, with user")
    make.add_argument("--dims", type=int, default=48, help="most dimensions (default and most: 48)")
    make.add_argument("--cache", type=Path, help="folder that keeps what the tower saw")
    make.add_argument("--skip-bad", action="store_true", help="leave out pairs that cannot be read")
    federated = commands.add_parser("federated-prior", help="a population prior of several studios' people, by sums")
    add_federated_arguments(federated)
    studies = commands.add_parser("studies", help="say what a set of studies holds")
    studies.add_argument("folder", type=Path, help="folder with studies.json, as Paint Studies writes it")

    train = commands.add_parser("train", help="train an adapter for your own checkpoint, or a pocket from nothing")
    trained = train.add_subparsers(dest="what", required=True)
    for world in WORLDS:
        pocket = trained.add_parser(world, help="from nothing; run it again to resume")
        pocket.add_argument("--work", type=Path, help="folder for data and checkpoints (default: .work, or .work-flow)")
        pocket.add_argument("--weights", type=Path, help="folder for the finished weights (default: the tracked ones)")
        pocket.add_argument("--json", type=Path, help="write the figures there, for machines")
    adapter = trained.add_parser("adapter", help="a user adapter for a checkpoint; run it again to resume")
    add_training_arguments(adapter)
    adapter.add_argument("--json", type=Path, help="write the figures there, for machines")

    evaluate = commands.add_parser(
        "evaluate",
        help="measure every figure of the model card",
        description="Measures every figure of the model card; trains adapters to compare with where they are missing.",
    )
    evaluate.add_argument("what", choices=WORLDS)
    evaluate.add_argument("--people", type=int, default=200, help="reporting people (default and most: 200)")
    evaluate.add_argument("--quick", action="store_true", help="leave out the sweeps")
    evaluate.add_argument("--work", type=Path, help="folder for data and checkpoints, as of train")
    evaluate.add_argument("--weights", type=Path, help="folder of the weights to measure (default: the tracked ones)")

    pilot = commands.add_parser("pilot", help="several people's blind tests as one report")
    pilot.add_argument("folders", nargs="+", type=Path, help="folders with blind tests, as ComfyUI's output has them")
    pilot.add_argument("--out", type=Path, default=Path("pilot"), help="folder for pilot.html (default: pilot)")

    judge = commands.add_parser("judge", help="which way to paint would be preferred, without asking the person")
    judge.add_argument("arms", nargs="*", help="NAME=FOLDER, two or three: pictures of the same names")
    judge.add_argument("--tests", type=Path, help="instead: finished blind tests of a taste store, user/__ppd/taste")
    judge.add_argument("--by", choices=JUDGES, nargs="+", required=True, help="who judges")
    judge.add_argument("--pairs", type=Path, help="people's picks that made nothing of what is judged")
    judge.add_argument("--user", help="only this user's picks, where the set has several users")
    judge.add_argument("--world", choices=WORLDS, default=WORLDS[0], help="whose taste encoder, or simulated people")
    judge.add_argument("--encoder", type=Path, help="folder of another taste encoder")
    judge.add_argument("--models", type=Path, default=Path("models"), help="ComfyUI's models, where its tower lies")
    judge.add_argument("--vlm", type=Path, help="folder of a vision-language model, as transformers reads it")
    judge.add_argument("--shown", type=int, default=4, help="pairs of a person that it is shown (default: 4)")
    judge.add_argument("--taste", type=Path, nargs="+", default=[], help="folders with a taste.json: who is simulated")
    judge.add_argument("--out", type=Path, default=Path("judged"), help="folder for judged.html (default: judged)")

    for command in (demo, encode, sample, lora, studies, make, federated, evaluate, pilot, judge):
        command.add_argument("--json", type=Path, help="write the figures there, for machines")
    return parser


def _demo(arguments: argparse.Namespace) -> dict[str, Any]:
    print(f"Opening {arguments.world} and reading two people's picks: about ten seconds", flush=True)
    from .pairs import read_pairs
    from .pocket.studio import WEIGHTS, Studio, load_encoder
    from .pocket.world import WORLDS
    from .sheet import Margin, contact_sheet
    from .user_embedding import blend

    start, world = time.monotonic(), WORLDS[arguments.world]
    folders = [WEIGHTS / "examples" / name for name in world.examples]
    encoder, studio = load_encoder(WEIGHTS, world), Studio.open(weights=WEIGHTS, world=world)
    people = [list(read_pairs(folder)) for folder in folders]
    a, b = (encoder.encode(pairs) for pairs in people)
    print(f"Painting {len(DEMO_PROMPTS)} prompts for both: about half a minute on two cores", flush=True)
    rows = []
    for i, prompt in enumerate(DEMO_PROMPTS):
        rows.append(studio.paint(prompt, arguments.seed + i, [None, a, b, blend(a, b, 0.5)]))
        print(f"painted {i + 1} of {len(DEMO_PROMPTS)}: {prompt}", flush=True)
    margins = [
        Margin(f"picks of {letter}", [(pair.chosen.open(), pair.rejected.open()) for pair in pairs])
        for letter, pairs in zip("AB", people, strict=True)
    ]
    columns = ["base", f"A: {folders[0].name}", f"B: {folders[1].name}", "half A, half B"]
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "demo.png"
    contact_sheet(rows, DEMO_PROMPTS, columns, margins).save(file)
    seconds = round(time.monotonic() - start, 1)
    print(f"{file}: the same prompts and seeds for two people, four picks each ({seconds} s)")
    return {"file": str(file), "seconds": seconds, "people": [folder.name for folder in folders]}


def _encode(arguments: argparse.Namespace) -> dict[str, Any]:
    from .encoders.encoder import TasteEncoder
    from .encoders.towers import open_tower
    from .pairs import read_pairs
    from .pocket.studio import WEIGHTS
    from .pocket.world import WORLDS
    from .privacy import Guarantee
    from .user_embedding import release

    pairs = list(read_pairs(arguments.pairs, skip_bad=arguments.skip_bad, user=arguments.user))
    if not pairs:
        raise ValueError(f"There are no preference pairs in {arguments.pairs}: pick at least one.")
    folder = arguments.encoder or WORLDS[arguments.world].encoder(WEIGHTS)
    made = TasteEncoder.load(folder)
    encoder = made.open(open_tower(made.tower, folder, find=lambda kind, name: arguments.models / kind / name))
    embedding = encoder.encode(pairs, on_bad="skip" if arguments.skip_bad else "raise")
    if arguments.epsilon is not None:
        embedding = release(embedding, Guarantee(arguments.epsilon, arguments.delta))
    embedding.save(arguments.out, with_covariance=arguments.with_covariance)
    told = "" if embedding.guarantee is None else f"; {embedding.guarantee.told}"
    print(f"{arguments.out}: user embedding of {embedding.pairs} pairs, {embedding.length_told}{told}")
    return {"file": str(arguments.out), "pairs": embedding.pairs, "encoder": embedding.encoder}


def _sample(arguments: argparse.Namespace) -> dict[str, Any]:
    from .pocket.studio import WEIGHTS, Studio
    from .pocket.text import unknown_words
    from .pocket.world import WORLDS
    from .sheet import contact_sheet
    from .user_embedding import UserEmbedding, blend

    if arguments.steps < 1:
        raise ValueError(f"Expected at least 1 of the sampler's steps, got {arguments.steps}.")
    if arguments.out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"Expected a picture file as --out, got {arguments.out.name}: let it end in .png.")
    studio = Studio.open(arguments.adapter, WEIGHTS, WORLDS[arguments.world])
    unknown = unknown_words(arguments.prompt, studio.model.vocabulary)
    if unknown:
        print(f"The pocket model does not know: {', '.join(unknown)}. These words say nothing to it.", file=sys.stderr)
    user = None if arguments.user is None else UserEmbedding.load(arguments.user)
    users: list[UserEmbedding | None] = [user]
    if arguments.blend_with is not None:
        if user is None:
            raise ValueError("A blend needs two people: give --user as well as --blend-with.")
        other = UserEmbedding.load(arguments.blend_with)
        users = [blend(user, other, weight) for weight in arguments.blend]
    # One row for one person's strengths; for a blend a row for each strength
    grid = [[(user, strength) for user in users] for strength in arguments.strength]
    rows, columns = [f"strength {s:g}" for s in arguments.strength], [f"blend {w:g}" for w in arguments.blend]
    if len(users) == 1:
        grid, rows, columns = [[cell for row in grid for cell in row]], [arguments.prompt], rows
    pictures = [
        studio.paint(
            arguments.prompt,
            arguments.seed,
            [user for user, _ in row],
            [strength for _, strength in row],
            guidance=arguments.cfg,
            steps=arguments.steps,
        )
        for row in grid
    ]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if len(columns) == len(rows) == 1:
        pictures[0][0].save(arguments.out)
    else:
        contact_sheet(pictures, rows, columns).save(arguments.out)
    print(arguments.out)
    return {"file": str(arguments.out), "unknown_words": unknown}


def _lora(arguments: argparse.Namespace) -> dict[str, Any]:
    from .adapters import UserAdapter
    from .lora import DTYPES, differences, lora_of, write_lora
    from .user_embedding import UserEmbedding

    if arguments.out.suffix != ".safetensors":
        raise ValueError(f"Expected a .safetensors file as --out, got {arguments.out.name}: let it end so.")
    adapter, person = UserAdapter.load(arguments.adapter), UserEmbedding.load(arguments.user)
    tensors = lora_of(adapter, person, arguments.strength, arguments.layers)
    write_lora(arguments.out, tensors, adapter.config.family, DTYPES[arguments.precision])
    layers = len(tensors) // 2
    print(f"{arguments.out}: LoRA for {adapter.config.family}, {layers} layers, at strength {arguments.strength:g}")
    for sentence in differences(adapter):
        print(sentence)
    return {"file": str(arguments.out), "family": adapter.config.family, "layers": layers}


def _make_encoder(arguments: argparse.Namespace) -> dict[str, Any]:
    from .encoders.features import PictureFeatures
    from .encoders.workshop import Materials, make_encoder, report_of, save_encoder
    from .pairs import read_pairs
    from .pictures import pictures_below
    from .studies import open_studies

    if arguments.out.exists():
        raise ValueError(f"There is a folder {arguments.out.name} already: choose another name as --out.")
    pairs = arguments.pairs and list(read_pairs(arguments.pairs, skip_bad=arguments.skip_bad, check_pictures=False))
    materials = Materials(
        arguments.studies and open_studies(arguments.studies),
        pictures_below(arguments.pictures) if arguments.pictures else (),
        pairs or (),
    )
    tower, reference, folder = _tower(arguments.tower, arguments.weights, arguments.download)
    features = PictureFeatures(tower, cache_dir=arguments.cache)
    encoder = make_encoder(features, reference, materials, most_dims=arguments.dims)
    save_encoder(encoder, arguments.out, folder)
    print(report_of(encoder))
    print(arguments.out)
    return {"folder": str(arguments.out), **encoder.made}


def _tower(name: str, weights: str | None, download: bool) -> tuple[Any, dict[str, Any], Path | None]:
    """A tower, its reference, which holds no path, and the taste encoder's folder that it lies in, if it does."""
    from .encoders.towers import open_tower
    from .pocket.studio import ENCODER, WEIGHTS

    if name == "pocket":
        return open_tower({"kind": "folder"}, WEIGHTS / ENCODER), {"kind": "folder"}, WEIGHTS / ENCODER
    if Path(name).is_dir():
        reference = {"kind": "transformers", "directory": Path(name).name}
        return open_tower({**reference, "directory": name}), reference, None
    if weights is None:
        raise ValueError(f"The tower {name} needs weights: give --weights with a .safetensors file or a tag.")
    is_file = Path(weights).is_file()
    given = {"kind": "open_clip", "model": name, "file" if is_file else "pretrained": weights}
    reference = {**given, "file": Path(weights).name} if is_file else given
    return open_tower(given, download=download), reference, None


def _federated(arguments: argparse.Namespace) -> dict[str, Any]:
    from .federated.command import command

    return command(arguments)


def _studies(arguments: argparse.Namespace) -> dict[str, Any]:
    from .studies import open_studies

    studies = open_studies(arguments.folder)
    print(studies.report())
    looks = {look: len(pairs) for look, pairs in studies.by_look().items()}
    return {"pictures": len(studies.pictures), "missing": studies.missing, "model": studies.model, "pairs": looks}


def _train(arguments: argparse.Namespace) -> dict[str, Any] | None:
    if arguments.what == "adapter":
        from .packages import needed_package

        needed_package("accelerate", "accelerate", "Training")
        from .training.command import command

        return command(arguments)
    from .pocket.recipe import Recipe
    from .pocket.studio import WEIGHTS
    from .pocket.world import WORLDS

    recipe = Recipe(_work(arguments), arguments.weights or WEIGHTS, WORLDS[arguments.what])
    with _stopped_in_words():
        recipe.run()
    return {"seconds": json.loads((recipe.work / "seconds.json").read_text())}


@contextmanager
def _stopped_in_words() -> Iterator[None]:
    """A training that was asked to stop ends the command, with what it says."""
    from .training.control import Stopped

    try:
        yield
    except Stopped as stopped:
        raise SystemExit(str(stopped)) from None


def _work(arguments: argparse.Namespace) -> Path:
    """The work folder of a world, which no other world may have."""
    return arguments.work or Path(f".work{arguments.what.removeprefix('pocket')}")


def _evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    from .pocket.evaluate import check_people, compared, evaluate
    from .pocket.recipe import Recipe
    from .pocket.studio import WEIGHTS
    from .pocket.world import WORLDS

    weights, world = arguments.weights or WEIGHTS, WORLDS[arguments.what]
    if not world.file(weights, "base").is_file():
        raise ValueError(
            f"There are no weights to measure in {weights}: train them with `python -m ppd train {world.name}`."
        )
    recipe = Recipe(_work(arguments), weights, world)
    check_people(arguments.people)
    recipe.adapter(world.name)  # refused before anything is made to measure it with
    recipe.make("pool")
    with _stopped_in_words():
        for name in compared(world, quick=arguments.quick):
            recipe.make_adapter(name)
    report = evaluate(recipe, arguments.people, quick=arguments.quick)
    print(json.dumps({key: value for key, value in report.items() if key != "settings"}, indent=1))
    return report


def _pilot(arguments: argparse.Namespace) -> dict[str, Any]:
    from .evaluation.pilot import PILOT_PAGE, pilot, read_reports, sentences, write_pilot

    figures = pilot(read_reports(arguments.folders))
    write_pilot(arguments.out, figures)
    for sentence in sentences(figures):
        print(sentence)
    print(arguments.out / PILOT_PAGE)
    return figures


def _judge(arguments: argparse.Namespace) -> dict[str, Any]:
    from .judging import command

    return command(arguments)


COMMANDS = {
    "demo": _demo,
    "encode": _encode,
    "sample": _sample,
    "lora": _lora,
    "make-encoder": _make_encoder,
    "federated-prior": _federated,
    "studies": _studies,
    "train": _train,
    "evaluate": _evaluate,
    "pilot": _pilot,
    "judge": _judge,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 2 with one sentence on standard error when something given to it is wrong."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        figures = COMMANDS[arguments.command](arguments)
        if arguments.json is not None and figures is not None:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    except (ValueError, OSError) as error:
        print(f"error: {str(error).rstrip('.')}.", file=sys.stderr)
        return 2
    return 0
