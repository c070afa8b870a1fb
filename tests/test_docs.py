"""README and docs say what is so: fields of files are those that are written, links and paths lead somewhere, and the
sentences of the troubleshooting page are the code's."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ppd.adapters import CrossAttentionAdapter, CrossAttentionConfig, LowRankAdapter, LowRankConfig, Site
from ppd.encoders.encoder import JSON_FILE, TENSOR_FILE, TasteEncoder
from ppd.encoders.looks import Looks
from ppd.encoders.population import PopulationPrior
from ppd.lexicon import Look, LookSide
from ppd.lora import keyed, write_lora
from ppd.pairs import PreferencePair, write_pairs
from ppd.privacy import Guarantee
from ppd.store import TasteStore
from ppd.studies import ROWS_FILE, STUDIES_FILE, Cell, continue_studies, noise_of
from ppd.taste_file import TasteCard
from ppd.user_embedding import UserEmbedding
from tests.store.small_stores import ask, picture

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "weights" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
HASH = "ab" * 32
EVERYWHERE = {"format", "version"}
"""What the page says of all files at once."""
HOLE = "\0"
"""Where a sentence has a name or a number."""


def section(title: str) -> str:
    return re.split(r"^## ", FILES.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def documented(text: str, where: str) -> tuple[set[str], set[str]]:
    """The fields that a section's tables name of a part of a file: those always there, and the optional ones."""
    rows = re.findall(rf"^\| {where} \| `([^`]+)` \| (.*?) \|", text, flags=re.MULTILINE)
    optional = {name for name, form in rows if "optional" in form}
    return {name for name, _ in rows} - optional, optional


def written(path: Path) -> tuple[set[str], set[str]]:
    """Names of a safetensors file's tensors, numbers of layers aside, and of its metadata."""
    with safe_open(path, framework="pt") as file:
        return {re.sub(r"\.\d+\.(?=to_|up|down)", ".i.", name) for name in file.keys()}, set(file.metadata())  # noqa: SIM118


def embedding(**more):
    return UserEmbedding(torch.ones(1, 3), "tiny", HASH, 4, "2026-01-31", **more)


def test_user_embeddings(tmp_path):
    text = section("User embedding")
    embedding().save(tmp_path / "plain.safetensors")
    card = TasteCard(**{item.name: "told" for item in fields(TasteCard)}).metadata()
    private = embedding(covariance_factor=torch.eye(3), guarantee=Guarantee(8.0))
    private.save(tmp_path / "all.safetensors", with_covariance=True, card=card)
    for where, plain, everything in zip(
        ("tensor", "metadata"),
        written(tmp_path / "plain.safetensors"),
        written(tmp_path / "all.safetensors"),
        strict=True,
    ):
        always, optional = documented(text, where)
        assert plain - EVERYWHERE == always
        assert everything - EVERYWHERE == always | optional


def test_taste_encoders(tmp_path):
    text = section("Taste encoder")
    prior = PopulationPrior(torch.zeros(3), torch.eye(3), torch.zeros(5), torch.ones(5, 3), "tiny", HASH)
    ones = torch.ones(1, 3)
    looks = Looks(("light",), ("dark",), ("pale",), ones, ones / 3, torch.ones(1), (("暗い", "淡い"),), "rendered")
    for named in (None, looks):
        folder = tmp_path / ("plain" if named is None else "all")
        TasteEncoder({"kind": "folder", "name": "tiny", "hash": HASH}, prior, named).save(folder)
        tensors, metadata = written(folder / TENSOR_FILE)
        values = json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))
        for where, found in (("tensor", tensors), ("metadata", metadata), ("json", set(values))):
            always, optional = documented(text, where)
            assert found - EVERYWHERE == (always if named is None else always | optional), where
    assert set(values["looks"]) <= set(re.findall(r"`(\w+)`", text))


@pytest.mark.parametrize("kind", ["cross_attention", "low_rank"])
def test_user_adapters(tmp_path, kind):
    common, cross_attention, low_rank = re.split(r"^Kind `", section("User adapter"), flags=re.MULTILINE)
    asked: dict[str, Any] = {"family": "pocket", "encoder": "tiny", "encoder_hash": HASH, "embedding_dim": 3}
    adapter: CrossAttentionAdapter | LowRankAdapter
    if kind == "cross_attention":
        adapter, own = CrossAttentionAdapter(CrossAttentionConfig(**asked, layers=(8, 8))), cross_attention
    else:
        adapter, own = LowRankAdapter(LowRankConfig(**asked, sites=(Site("a", 0, 4, 4), Site("b", 1, 4, 8)))), low_rank
    adapter.save(tmp_path / "a.safetensors")
    tensors, metadata = written(tmp_path / "a.safetensors")
    assert tensors == documented(own, "tensor")[0]
    assert metadata - EVERYWHERE == documented(common, "metadata")[0] | documented(own, "metadata")[0]


def test_loras(tmp_path):
    write_lora(tmp_path / "a.safetensors", keyed({"<layer>": (torch.ones(2, 4), torch.ones(4, 2))}), "pocket")
    tensors, metadata = written(tmp_path / "a.safetensors")
    text = section("LoRA")
    assert (tensors, metadata - EVERYWHERE) == (documented(text, "tensor")[0], documented(text, "metadata")[0])


def test_studies(tmp_path):
    text = section("Studies")
    look = Look("dark-bright", "light", LookSide("dark", "暗い", "dark"), LookSide("bright", "明るい", "bright"))
    writer = continue_studies(tmp_path / "set", [look], {"class": "Tiny", "weights": HASH}, {"steps": 2})
    noise = noise_of(3, (1, 4, 2, 2))
    writer.add(Cell(look, "a dog", 3), "low", picture(0), noise, noise)
    values = json.loads((tmp_path / "set" / STUDIES_FILE).read_text(encoding="utf-8"))
    row = json.loads((tmp_path / "set" / ROWS_FILE).read_text(encoding="utf-8"))
    assert set(values) - EVERYWHERE == documented(text, "json")[0]
    always, optional = documented(text, "row")
    assert set(row) == always | optional


def test_preference_sets(tmp_path):
    pairs = [
        PreferencePair("a", picture(0), picture(1), "1", user="ann", created="2026-01-31", choice="best"),
        PreferencePair("a", picture(2), picture(3), "2", tie=True),
        PreferencePair("a", picture(4), picture(5), "3", probability=0.7),
    ]
    write_pairs(tmp_path, pairs)
    lines = (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    always, optional = documented(section("Preference set"), "row")
    assert {name for line in lines for name in json.loads(line)} == always | optional


def test_the_taste_store(tmp_path):
    store = TasteStore(tmp_path)
    ask(store, store.add_person("ann").id, 1)
    tables = dict(
        store.database.read("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    )
    columns = {
        name: {column for (column,) in store.database.read(f"SELECT name FROM pragma_table_info('{name}')")}
        for name in tables
    }
    rows = re.findall(r"^\| `(\w+)` \| ((?:`\w+` ?)+)\|", section("Taste store"), flags=re.MULTILINE)
    told = {table: set(re.findall(r"\w+", named)) for table, named in rows}
    assert told == columns
    assert f"`user_version` {store.database.read('PRAGMA user_version')[0][0]}" in section("Taste store")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, heading = link.partition("#")
        target = page if not name else (page.parent / name.replace("%20", " ")).resolve()
        assert target.exists(), link
        assert not heading or heading in headings(target), link
    inside = {entry.name for entry in ROOT.iterdir() if not entry.name.startswith(".") or entry.name == ".ci"}
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    named = [code for code in re.findall(r"`([^`\n]+)`", prose) if "/" in code and code.split("/")[0] in inside]
    base = ROOT if page.parent.name != "weights" else page.parent
    missing = [
        name for name in named if " " not in name and not any(any(at.glob(name.rstrip("/"))) for at in (ROOT, base))
    ]
    assert missing == []


def headings(page: Path) -> set[str]:
    """What links call a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@lru_cache(1)
def sources() -> list[ast.AST]:
    """The nodes of all of the code's syntax trees."""
    paths = [*(ROOT / "nodes").glob("*.py"), *(ROOT / "ppd").rglob("*.py"), ROOT / "__init__.py"]
    return [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def text_of(node: ast.AST) -> str | None:
    """A text of the code, with a hole where something is put in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def said() -> list[str]:
    """All texts of the code and of the tab."""
    words = json.loads((ROOT / "locales" / "en" / "main.json").read_text(encoding="utf-8"))
    found = [re.sub(r"\{\w+\}", HOLE, word) for word in words["ppd"].values()]
    return found + [text for node in sources() if (text := text_of(node)) is not None]


def quoted() -> list[str]:
    """The sentences that the troubleshooting page explains."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| .+ \|$", page, flags=re.MULTILINE)
    return [match[1].replace("…", HOLE) for row in rows if (match := re.match(r'"(.+?)"$', row))]


def test_quoted_sentences_are_the_codes():
    sentences, texts = quoted(), said()
    assert len(sentences) > 80
    assert [sentence for sentence in sentences if not any(sentence in text for text in texts)] == []


def test_errors_say_their_fix_or_stand_on_the_page():
    """They say what was expected, or what to do after a colon, a semicolon or a full stop. What ends in no full stop is
    a part of another sentence, and what has more holes than words is made of others."""
    raised = [node.exc for node in sources() if isinstance(node, ast.Raise)]
    texts = [text for call in raised if isinstance(call, ast.Call) and call.args if (text := text_of(call.args[0]))]
    whole = [text for text in texts if text.endswith(".") and len(re.findall(r"\w+", text)) >= text.count(HOLE)]
    assert len(whole) > 300
    bare = [text for text in whole if not re.search(rf"[Ee]xpected |[:;.] [`A-Za-z{HOLE}]", text)]
    assert [text for text in bare if not any(sentence in text for sentence in quoted())] == []
