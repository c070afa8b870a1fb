"""The kinds of files of ours, each with the smallest valid file of it and a use that must give numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from ppd.adapters import CrossAttentionAdapter, CrossAttentionConfig, LowRankAdapter, LowRankConfig, Site, UserAdapter
from ppd.adapters.ip_adapter import TasteIPAdapter, load_ip_adapter
from ppd.branch import branch_keys_values
from ppd.encoders.encoder import TasteEncoder
from ppd.encoders.looks import Looks
from ppd.encoders.population import PopulationPrior
from ppd.encoders.vlm import ProfileWhitening
from ppd.evaluation.pilot import Report, pilot, sentences
from ppd.guard.bound import bound
from ppd.guard.brand import check_brand, report_of
from ppd.guard.guide import read_guide, written
from ppd.guard.marks import marked
from ppd.guard.probes import FixedProbe
from ppd.lexicon import Look, LookSide
from ppd.pairs import read_pairs
from ppd.pictures import Picture
from ppd.privacy import Guarantee
from ppd.studies import Cell, continue_studies, noise_of, open_studies
from ppd.taste_code import decode, encode
from ppd.taste_file import TasteCard
from ppd.user_embedding import UserEmbedding
from tests.fuzz import CODE, Kind

HASH = "a" * 64


def finite(*tensors: torch.Tensor) -> None:
    """What is painted with or compared by: numbers."""
    assert all(bool(tensor.isfinite().all()) for tensor in tensors), "used, and what came of it is no number"


def paints(adapter: Any) -> None:
    u = torch.ones(1, 1, adapter.config.embedding_dim)
    with torch.no_grad():
        if isinstance(adapter, LowRankAdapter):
            finite(*(x for pair in adapter.lora(u, 1.0, range(adapter.config.count)).values() for x in pair))
        else:
            finite(*(x for pair in branch_keys_values(adapter, u, 1.0, range(adapter.config.count)) for x in pair))


def user_adapter(folder: Path) -> Kind:
    path = folder / "adapter.safetensors"
    config = CrossAttentionConfig(
        family="pocket", encoder="tiny", encoder_hash=HASH, embedding_dim=6, layers=(8, 16), tokens=3, token_dim=5,
        hidden=7, training={"steps": 3},
    )  # fmt: skip
    CrossAttentionAdapter(config).save(path)
    return Kind(path, lambda: paints(UserAdapter.load(path)))


def low_rank_adapter(folder: Path) -> Kind:
    path = folder / "low-rank.safetensors"
    config = LowRankConfig(
        family="qwen_image", encoder="tiny", encoder_hash=HASH, embedding_dim=6, rank=3,
        sites=(Site("blocks.0.attn.to_q", 0, 8, 8), Site("blocks.1.mod", 1, 8, 16)),
    )  # fmt: skip
    LowRankAdapter(config).save(path)
    return Kind(path, lambda: paints(UserAdapter.load(path)))


def ip_adapter(folder: Path) -> Kind:
    path, g = folder / "ip-adapter.safetensors", torch.Generator().manual_seed(0)
    shapes = {"latents": (1, 2, 8), "proj_in.weight": (8, 1280), "proj_in.bias": (8,), "proj_out.weight": (768, 8)}
    shapes |= {"proj_out.bias": (768,), "norm_out.weight": (768,), "norm_out.bias": (768,)}
    for norm in ("0.norm1", "0.norm2", "1.0"):
        shapes |= {f"layers.0.{norm}.weight": (8,), f"layers.0.{norm}.bias": (8,)}
    linears = {"0.to_q": (64, 8), "0.to_kv": (128, 8), "0.to_out": (8, 64), "1.1": (16, 8), "1.3": (8, 16)}
    shapes |= {f"layers.0.{name}.weight": shape for name, shape in linears.items()}
    tensors = {f"image_proj.{name}": torch.randn(shape, generator=g) * 0.1 for name, shape in shapes.items()}
    for number in range(16):
        for which in "kv":
            tensors[f"ip_adapter.{2 * number + 1}.to_{which}_ip.weight"] = torch.randn(2, 768, generator=g) * 0.1
    save_file(tensors, path)

    def use() -> None:
        published = load_ip_adapter(path)
        seen = published.projector.float()(torch.ones(1, 3, 1280))[0]
        finite(seen)
        paints(TasteIPAdapter(published.float(), "tiny", HASH, seen, torch.ones(6, *published.seen_shape)))

    return Kind(path, use)


def user_embedding(folder: Path) -> Kind:
    path = folder / "taste.safetensors"
    one = UserEmbedding(torch.ones(2, 6), "tiny", HASH, 4, "2026-01-01", covariance_factor=torch.eye(6, 3))
    card = TasteCard("Ann", "evenings", "")
    one.save(path, with_covariance=True, card=card.metadata())

    def use() -> None:
        found = UserEmbedding.load(path)
        finite(found.u, *([] if found.covariance_factor is None else [found.draw(0).u]))
        assert len(TasteCard.of_file(path).name) <= 80

    return Kind(path, use)


def blind_test(folder: Path) -> Kind:
    path = folder / "report.json"
    pair = {"arms": ["base", "mine"], "wins": 2, "losses": 9, "ties": 1}
    values = {"format": "ppd-blind-test", "version": 1, "test": "t", "person": "p", "pairs": [pair], "minutes": 1.5}
    values |= {"consistency": {"same": 1, "of": 2, "ties": 1}, "seconds_per_pick": 2.5, "notes": {"picks": 8}}
    path.write_text(json.dumps(values))

    def use() -> None:
        found = pilot([Report.load(path)])
        assert all(0 <= pair["rate"] <= 1 for pair in found["pairs"]) and sentences(found)

    return Kind(path, use)


def _prior() -> PopulationPrior:
    g = torch.Generator().manual_seed(0)
    mean, center, basis = (torch.randn(*shape, generator=g) for shape in ((3,), (5,), (5, 3)))
    return PopulationPrior(mean, 2 * torch.eye(3), center, basis, "tiny", HASH)


def _looks() -> Looks:
    return Looks(
        ("light",), ("dark",), ("pale",), torch.ones(1, 3), torch.ones(1, 3) / 3, torch.ones(1), (("暗", "淡"),)
    )


def _encoder(folder: Path) -> tuple[Path, Callable[[], None]]:
    mine = folder / "mine"
    TasteEncoder({"kind": "folder", "name": "tiny", "hash": HASH}, _prior(), _looks(), {"people": 7}).save(mine)

    def use() -> None:
        found = TasteEncoder.load(mine)
        finite(found.prior.whiten(torch.ones(2, len(found.prior.center))), found.prior.mean)

    return mine, use


def encoder_json(folder: Path) -> Kind:
    mine, use = _encoder(folder)
    return Kind(mine / "encoder.json", use)


def encoder_tensors(folder: Path) -> Kind:
    """With the checksum that its damage has, else that would be all that is told."""
    from ppd.files import file_digest

    mine, use = _encoder(folder)
    words = json.loads((mine / "encoder.json").read_text())

    def use_signed() -> None:
        digest = file_digest(mine / "encoder.safetensors")
        (mine / "encoder.json").write_text(json.dumps({**words, "tensors": digest}))
        use()

    return Kind(mine / "encoder.safetensors", use_signed)


def profile_whitening(folder: Path) -> Kind:
    path = folder / "whitening.safetensors"
    ProfileWhitening(torch.ones(6), torch.ones(6, 3), HASH).save(path)

    def use() -> None:
        found = ProfileWhitening.load(path)
        finite((torch.ones(len(found.center)) - found.center) @ found.basis)

    return Kind(path, use)


def tower(folder: Path) -> Kind:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    from ppd.encoders.towers.open_clip import OpenClipTower, save_encoder

    path = folder / "tower.safetensors"
    vision = {"layers": 1, "width": 8, "head_width": 4, "patch_size": 8, "image_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = CLIPTextCfg(context_length=1, vocab_size=1, width=8, heads=1, layers=1)
        visual = CLIP(4, CLIPVisionCfg(**vision), text).visual
    save_encoder(path, visual, {"embed_dim": 4, "vision_cfg": vision}, name="tiny", mean=[0.5] * 3, std=[0.3] * 3)

    def use() -> None:
        found = OpenClipTower.from_file(path)
        assert len(found.features([found.prepare(Image.new("RGB", (20, 30)))])) == 1 and found.weight_hash

    return Kind(path, use)


def study_latent(folder: Path) -> Kind:
    studies, _ = _studies(folder)
    path = next((studies / "latents").rglob("*.safetensors"))

    def use() -> None:
        for one in open_studies(studies).pictures:
            finite(one.latent(), one.noise())

    return Kind(path, use)


def studies_json(folder: Path) -> Kind:
    studies, use = _studies(folder)
    return Kind(studies / "studies.json", use)


def studies_rows(folder: Path) -> Kind:
    studies, use = _studies(folder)
    return Kind(studies / "studies.jsonl", use)


def _studies(folder: Path) -> tuple[Path, Callable[[], None]]:
    look = Look("cool-warm", "colour", LookSide("cool", "寒色", "cool"), LookSide("warm", "暖色", "warm"))
    model, path = {"class": "SD15", "weights": "a" * 16}, folder / "studies"
    writer, noise = continue_studies(path, [look], model, {"steps": 20}), noise_of(3, (1, 4, 2, 2))
    for side in ("low", "high"):
        writer.add(Cell(look, "a dog", 3), side, Picture.from_image(Image.new("RGB", (8, 8))), noise / 2, noise)

    def use() -> None:
        found = open_studies(path)
        found.report()
        for pair in found.pairs():
            pair.alike()

    return path, use


def preference_set(folder: Path) -> Kind:
    for name, colour in (("a.png", (255, 0, 0)), ("b.png", (0, 0, 255))):
        Image.new("RGB", (8, 8), colour).save(folder / name)
    row = {"id": "1", "prompt": "a dog", "chosen": "a.png", "rejected": "b.png", "user": "ann", "tie": False}
    (folder / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 2)
    return Kind(folder / "pairs.jsonl", lambda: list(read_pairs(folder)))


def export_picture(folder: Path) -> Kind:
    """What an export holds beside its pairs."""
    preference_set(folder)
    return Kind(folder / "a.png", lambda: list(read_pairs(folder)))


def taste_code(folder: Path) -> Kind:
    """With noise, so that all parts of a code are there."""
    path, u = folder / f"taste{CODE}", torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
    path.write_text(encode(UserEmbedding(u, "tiny", HASH, 4, "2026-01-01", guarantee=Guarantee(8.0))))

    def use() -> None:
        found = decode(path.read_bytes().decode(errors="surrogateescape"), [("other", "b" * 64), ("tiny", HASH)])
        finite(found.u)
        again = decode(encode(found), [("tiny", HASH)])
        assert (again.pairs, again.created, again.guarantee) == (found.pairs, found.created, found.guarantee)

    return Kind(path, use)


def brand_guide(folder: Path) -> Kind:
    path = folder / "sea.brand.json"
    looks, prior = _looks(), _prior()
    taste = UserEmbedding(torch.ones(1, 3), "tiny", HASH, 4, "2026-01-01", covariance_factor=torch.eye(3))
    rules = [
        {"level": "must", "colour": "#3f8fc4", "delta_e": 15, "area": 0.1},
        {"level": "never", "object": "a house"},
        {"level": "never", "look": "dark", "by": 0.5},
        {"level": "should", "contrast": 4.5},
        {"level": "must", "free": [0.6, 0.1, 0.3, 0.2], "edges": 0.05},
    ]
    head = {
        "format": "ppd-brand-guide",
        "version": "1",
        "name": "Sea and sun " * 16,
    }  # a long one, where damage can be harmless
    path.write_text(json.dumps({**head, "rules": rules}))
    picture = torch.rand(24, 16, 3, generator=torch.Generator().manual_seed(0))

    def use() -> None:
        guide = read_guide(path)
        assert guide.rules and len(written(guide)) < 1 << 20
        found = bound(taste, guide, looks, prior)
        finite(found.embedding.u, found.embedding.draw(0).u)
        probe = FixedProbe(
            [*guide.objects, "nothing"], lambda x: x.mean((2, 3))[:, :1].expand(-1, 1 + len(guide.objects)), 16
        )
        verdicts = check_brand(guide, [picture], probe, looks, lambda seen: torch.ones(len(seen), 1))
        finite(marked(picture, verdicts[0]))
        assert report_of(guide, verdicts).isprintable() or guide.rules

    return Kind(path, use)


def pocket_base(folder: Path) -> Kind:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from ppd.pocket.autoencoder import PocketAutoencoder
    from ppd.pocket.base_file import write_base
    from ppd.pocket.model import SCHEDULE, TEXT_CONFIG, UNET_CONFIG, PocketModel

    unet = {**UNET_CONFIG, "block_out_channels": [32], "cross_attention_dim": 8, "attention_head_dim": 2}
    unet |= {"down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"]}
    text = {**TEXT_CONFIG, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    metadata: dict[str, Any] = {
        "unet_config": unet,
        "text_config": text,
        "vae_config": {"latent_channels": 4, "width": 8, "fine_width": 4},
        "scheduler_config": SCHEDULE,
        "latent_scale": 0.8,
        "latent_rgb_factors": [[0.1, 0.2, 0.3]] * 4,
        "latent_rgb_bias": [0.0, 0.0, 0.5],
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = (
            UNet2DConditionModel(**unet),
            CLIPTextModel(CLIPTextConfig(**text)),
            PocketAutoencoder(**metadata["vae_config"]),
        )
    path = folder / "pocket_base.safetensors"
    denoiser, words, autoencoder = (part.state_dict() for part in parts)
    write_base(path, denoiser, words, autoencoder, torch.tensor([5, 320, 49406, 49407]), metadata)
    return Kind(path, lambda: PocketModel.load(path))


KINDS: dict[str, Callable[[Path], Kind]] = {
    make.__name__: make
    for make in (
        *(
            user_adapter,
            low_rank_adapter,
            ip_adapter,
            user_embedding,
            encoder_json,
            encoder_tensors,
            profile_whitening,
            blind_test,
            tower,
        ),
        *(study_latent, studies_json, studies_rows, preference_set, export_picture, taste_code, brand_guide),
        pocket_base,
    )
}
COSTLY = {"brand_guide": 400, "ip_adapter": 300, "tower": 150, "pocket_base": 150}
"""How many of those that are built of a library's modules or draw are read in the fast test; all others are 1,000."""
