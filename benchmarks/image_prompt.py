"""`python -m benchmarks.image_prompt`: whether an IP-Adapter paints what a person likes, by us and by the peer.

Needs what the pack does not ship: a checkpoint, an IP-Adapter for it, its ViT-H-14, a taste encoder, a folder of
pictures like the checkpoint's, and one person's picks. Prompts and seeds are painted in ComfyUI by the plain
checkpoint; by our embedding of the support pairs; by its opposite, -u (what that wins as well is no taste); and, with
`--peer` a checkout of ComfyUI_IPAdapter_plus, by the average of the likes with the average of the dislikes as
negative, and by the difference of the two. All act in the same layers at one strength, which at 1 means the same to
both.

The judge is a preference fit on held-out pairs, which share no picture and no caption with the support pairs; their
prompts are painted. Its accuracy on the support pairs says what its judgement is worth. It sees by the features that
embeddings are made of and so favours what moves them, unless `--judge` names another image encoder. Intervals are of
95 %, over prompts and the judge's pairs, too narrow with few of them, and about this one person. All pictures are
kept, for people to judge.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ppd.evaluation import bootstrap
from ppd.pairs import PreferencePair, read_pairs
from ppd.pictures import pictures_below
from ppd.sheet import Margin, contact_sheet

from .pocket_step import load_folder, load_pack
from .preference_judge import fit_judges, scores, split, win_rate

PEERS_LAYERS = {"sd15": "7:1,8:1,9:1", "sdxl": "6:1"}
"""The layers of style, each at weight 1, as the peer counts: transformers in the order of execution."""
SIZES = {"sd15": 512, "sdxl": 1024}
MOST = 512
"""Pictures that the IP-Adapter is fitted to, at most."""

Pairs = Sequence[PreferencePair]
Painted = dict[str, list[list[Image.Image]]]
"""The pictures of each model [prompts][seeds]."""


def our_models(model: Any, adapter: Any, encoder: Any, support: Pairs, strength: float) -> dict[str, Any]:
    """MODELs by the embedding of the support pairs, and by its opposite."""
    from ppd_pack.ppd.hosts.comfyui import apply_user

    person = encoder.encode(support)
    people = {"ours": person, "opposite": replace(person, u=-person.u)}
    return {name: apply_user(model, adapter, [someone], strength) for name, someone in people.items()}


def fitted_adapter(file: Path, encoder: Any, clip_vision: Any, pictures: Sequence[Any]) -> Any:
    """The IP-Adapter as an adapter of the encoder's user embeddings."""
    from ppd_pack.nodes.ip_adapter import image_features
    from ppd_pack.ppd.adapters.ip_adapter import load_ip_adapter
    from ppd_pack.ppd.encoders.image_prompt import fit_to_taste
    from ppd_pack.ppd.hosts.comfyui import manage_adapter

    published = load_ip_adapter(file)
    return manage_adapter(fit_to_taste(published, encoder, image_features(published, clip_vision), pictures))


def peers_models(
    checkout: Path, model: Any, file: Path, clip_vision: Any, support: Pairs, strength: float, layers: str
) -> dict[str, Any]:
    """The peer's MODELs by likes and dislikes: the latter as negative, and subtracted. Ties are neither."""
    load_folder("peer", checkout)
    peer = importlib.import_module("peer.IPAdapterPlus")
    parts = importlib.import_module("peer.utils").ipadapter_model_loader(str(file))
    combine = peer.IPAdapterCombineEmbeds().batch

    def average(role: str) -> tuple[Tensor, Tensor]:
        """The average picture's embeds, and the peer's own for no picture."""
        pictures = [as_image(getattr(pair, role).open()) for pair in support if not pair.tie]
        seen = [peer.IPAdapterEncoder().encode(parts, picture, 1.0, clip_vision=clip_vision) for picture in pictures]
        return combine(torch.cat([positive for positive, _ in seen]), "average")[0], seen[0][1]

    (likes, blank), (dislikes, _) = average("chosen"), average("rejected")
    embeds = {"peer": (likes, dislikes), "peer, subtracted": (combine(likes, "subtract", dislikes)[0], blank)}
    models = {}
    for name, (positive, negative) in embeds.items():
        settings = {"pos_embed": positive, "neg_embed": negative, "weight": strength, "layer_weights": layers}
        models[name] = peer.ipadapter_execute(model.clone(), parts, clip_vision, **settings)[0]
    return models


def as_image(picture: Image.Image) -> Tensor:
    """A PIL picture as ComfyUI's IMAGE [1, H, W, 3]."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).float().div(255)[None]


def paint(
    models: dict[str, Any], clip: Any, vae: Any, prompts: Sequence[str], seeds: int, size: int, steps: int, cfg: float
) -> Painted:
    """The same prompts and seeds by each model."""
    import nodes

    latent = {"samples": torch.zeros(1, 4, size // 8, size // 8)}
    encode = nodes.CLIPTextEncode().encode
    (negative,) = encode(clip, "")
    painted: Painted = {name: [] for name in models}
    for number, prompt in enumerate(prompts, 1):
        (positive,) = encode(clip, prompt)
        for name, model in models.items():
            row = []
            for seed in range(seeds):
                (found,) = nodes.common_ksampler(model, seed, steps, cfg, "euler", "normal", positive, negative, latent)
                pixels = vae.decode(found["samples"])[0].clamp(0, 1).mul(255).round()
                row.append(Image.fromarray(pixels.byte().cpu().numpy()))
            painted[name].append(row)
        print(f"painted {number} of {len(prompts)}: {prompt}")
    return painted


def pixel_distance(ours: list[list[Image.Image]], theirs: list[list[Image.Image]]) -> Any:
    """Root mean squared differences [prompts, seeds] of pixels in 0..1."""

    def distance(a: Image.Image, b: Image.Image) -> float:
        difference = (np.asarray(a, dtype=np.float32) - np.asarray(b, dtype=np.float32)) / 255
        return float(np.square(difference).mean() ** 0.5)

    return np.array([[distance(*pair) for pair in zip(*rows, strict=True)] for rows in zip(ours, theirs, strict=True)])


def judge(painted: Painted, support: Pairs, held_out: Pairs, clip_vision: Any) -> dict[str, Any]:
    """Win rates by the held-out pairs, the judge's own accuracy, and how far pictures are from the plain ones."""

    def see(pictures: Sequence[Image.Image]) -> Tensor:
        found = [clip_vision.encode_image(as_image(picture))["image_embeds"] for picture in pictures]
        return torch.cat(found).float().cpu()

    def see_pairs(pairs: Pairs) -> tuple[Tensor, Tensor]:
        return see([pair.chosen.open() for pair in pairs]), see([pair.rejected.open() for pair in pairs])

    judges = fit_judges(*see_pairs(held_out), torch.tensor([pair.outcome for pair in held_out]))
    picks = [scores(judges, side[:, None]) for side in see_pairs([pair for pair in support if not pair.tie])]
    seen = {name: torch.stack([see(row) for row in rows]) for name, rows in painted.items()}
    liked = {name: scores(judges, features) for name, features in seen.items()}
    others = [name for name in painted if name != "plain"]
    against = [(name, "plain") for name in others] + [("ours", name) for name in others[1:]]
    return {
        "win_rates": {f"{a} against {b}": win_rate(liked[a], liked[b]) for a, b in against},
        "judge": {"accuracy_on_support_pairs": win_rate(*picks), "fitted_to_pairs": len(held_out)},
        "distance_from_plain": {
            name: {
                "pixels": bootstrap(pixel_distance(painted[name], painted["plain"])),
                "features": bootstrap(1 - F.cosine_similarity(seen[name], seen["plain"], dim=-1).numpy()),
            }
            for name in others
        },
    }


def load_clip_vision(file: Path) -> Any:
    import comfy.clip_vision

    found = comfy.clip_vision.load(str(file))
    if found is None:
        raise ValueError(f"ComfyUI recognises no CLIP vision model in {file.name}: give ViT-H-14's safetensors file.")
    return found


def keep(out: Path, painted: Painted, prompts: Sequence[str], support: Pairs) -> None:
    """All pictures, and a contact sheet of each prompt's first."""
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for name, rows in painted.items():
        for number, row in enumerate(rows):
            for seed, picture in enumerate(row):
                picture.save(out / "pictures" / f"{number:02}-{seed}-{name.replace(', ', '-')}.png")
    margin = Margin("the picks", [(pair.chosen.open(), pair.rejected.open()) for pair in support])
    first = [[rows[number][0] for rows in painted.values()] for number in range(len(prompts))]
    contact_sheet(first, prompts, list(painted), [margin]).save(out / "sheet.png")


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Paints, judges, and leaves pictures and contact sheet in the folder `out`."""
    given = None if arguments.held_out is None else list(read_pairs(arguments.held_out))
    support, held_out = split(list(read_pairs(arguments.pairs)), given, arguments.support)
    load_pack()
    import comfy.sd
    from ppd_pack.ppd.encoders.encoder import TasteEncoder
    from ppd_pack.ppd.hosts.comfyui_towers import open_tower

    strength = arguments.strength
    with torch.inference_mode():
        model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(str(arguments.checkpoint))
        clip_vision = load_clip_vision(arguments.clip_vision)
        eyes = clip_vision if arguments.judge is None else load_clip_vision(arguments.judge)
        taste = TasteEncoder.load(arguments.encoder)
        encoder = taste.open(open_tower(taste.tower, arguments.encoder))
        pictures = pictures_below(arguments.pictures)[:MOST]
        adapter = fitted_adapter(arguments.ip_adapter, encoder, clip_vision, pictures)
        family = adapter.model.config.family
        models = {"plain": model, **our_models(model, adapter, encoder, support, strength)}
        if arguments.peer is not None:
            file, layers = arguments.ip_adapter, PEERS_LAYERS[family]
            models |= peers_models(arguments.peer, model, file, clip_vision, support, strength, layers)
        prompts = list(dict.fromkeys(pair.prompt for pair in held_out))[: arguments.prompts]
        size = arguments.size or SIZES[family]
        painted = paint(models, clip, vae, prompts, arguments.seeds, size, arguments.steps, arguments.cfg)
        report = judge(painted, support, held_out, eyes)
    keep(arguments.out, painted, prompts, support)
    report["judge"]["sees_by"] = "the embedding's encoder" if arguments.judge is None else "another encoder"
    settings = {"family": family, "support_pairs": len(support), "size": size, "sampler": "euler"}
    settings |= {name: getattr(arguments, name) for name in ("strength", "seeds", "steps", "cfg")}
    return report | {"settings": settings}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image_prompt")
    for name in ("checkpoint", "ip-adapter", "clip-vision", "encoder", "pictures", "pairs", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, help="the same person's other pairs (default: the rest of --pairs)")
    parser.add_argument("--support", type=int, default=4, help="support pairs in --pairs, without --held-out (4)")
    parser.add_argument("--judge", type=Path, help="CLIP vision file that the judge sees by (default: --clip-vision)")
    parser.add_argument("--peer", type=Path, help="checkout of ComfyUI_IPAdapter_plus to compare with")
    parser.add_argument("--prompts", type=int, default=12, help="held-out prompts to paint, at most (default: 12)")
    parser.add_argument("--size", type=int, help="pixels of the square (default: 512 for SD1.5, 1024 for SDXL)")
    for name, default in (("seeds", 2), ("steps", 20), ("strength", 1.0), ("cfg", 4.0)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    arguments = parser.parse_args()
    try:
        figures = compare(arguments)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    print(json.dumps(figures, indent=1))
    (arguments.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
