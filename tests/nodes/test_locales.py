"""The words people read: every node's in Japanese, the panel's in both languages, none missing and none left over."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ppd.encoders.encoder import TasteEncoder

ROOT = Path(__file__).resolve().parents[2]
LOCALES = ROOT / "locales"
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
MESSAGE_SYNTAX = re.compile(r"[@{}|]")
"""What the frontend's vue-i18n reads as links, values and plurals instead of showing it."""
FIRST_ARGUMENT = re.compile(r'(?<!function )\bt\(((?:[^(),"`]|"[^"]*"|`[^`]*`|\([^()]*\))+)')


def read(language: str, name: str) -> dict:
    return json.loads((LOCALES / language / name).read_text(encoding="utf-8"), object_pairs_hook=without_repetition)


def without_repetition(pairs: list[tuple]) -> dict:
    assert len(dict(pairs)) == len(pairs), f"a key is there twice among {[key for key, _ in pairs]}"
    return dict(pairs)


def texts(tree: dict, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """The texts of nested keys, by their path."""
    found = {}
    for key, value in tree.items():
        found |= texts(value, (*path, key)) if isinstance(value, dict) else {(*path, key): value}
    return found


def paths_of(node: Any) -> set[tuple[str, ...]]:
    """Paths of all that the frontend looks up in nodeDefs for a node; it writes dots in ids as underscores."""
    schema = node.GET_SCHEMA()
    paths: set[tuple[str, ...]] = {("display_name",), ("description",)}
    for entry in schema.inputs:
        paths |= {("inputs", entry.id.replace(".", "_"), word) for word in ("name", "tooltip")}
        if getattr(entry, "control_after_generate", None):  # a widget that the frontend adds, with a tooltip of its own
            paths.add(("inputs", "control_after_generate", "name"))
    for number in range(len(schema.outputs)):
        paths |= {("outputs", str(number), word) for word in ("name", "tooltip")}
    return {(schema.node_id.replace(".", "_"), *path) for path in paths}


@pytest.mark.comfyui
def test_every_word_of_every_node_is_there_in_japanese_and_no_other(node_classes, comfy_folders):
    translated = texts(read("ja", "nodeDefs.json"))
    expected = set().union(*map(paths_of, node_classes.values()))
    assert expected - set(translated) == set(), "not translated"
    assert set(translated) - expected == set(), "translated, but not there"
    for path, text in translated.items():
        assert text.strip() == text != "", path
        assert not MESSAGE_SYNTAX.search(text), path
        assert path[-1] == "name" or JAPANESE.search(text), path


@pytest.mark.comfyui
def test_the_menus_categories_are_there_in_japanese(node_classes, comfy_folders):
    categories = {part for node in node_classes.values() for part in node.GET_SCHEMA().category.split("/")}
    assert set(read("ja", "main.json")["nodeCategories"]) == categories


def test_the_panel_says_the_same_in_both_languages():
    """English says a style's word by the word itself, and a category by its name."""
    english, japanese = read("en", "main.json"), read("ja", "main.json")
    assert set(japanese) - {"nodeCategories"} == set(english) == {"ppd"}
    english, japanese = english["ppd"], japanese["ppd"]
    assert {key for key in japanese if not key.startswith("word_")} == set(english)
    for key, text in english.items():
        assert placeholders(text) == placeholders(japanese[key]), key


def test_every_template_and_help_page_is_there_in_japanese():
    """Titles and notes by the English text itself; a help page names every input as its node does in Japanese."""
    translated, texts_of = json.loads((ROOT / "web" / "templates.ja.json").read_text(encoding="utf-8")), set()
    for path in (ROOT / "workflows").glob("*.json"):
        workflow = json.loads(path.read_text(encoding="utf-8"))
        assert workflow["extra"]["ppd"] == "template", path.name
        texts_of |= {group["title"] for group in workflow["groups"]}
        texts_of |= {node["title"] for node in workflow["nodes"] if "title" in node}
        texts_of |= {node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote"}
    assert texts_of ^ set(translated) == set(), "not translated, or not there"
    assert all(JAPANESE.search(text) for text in translated.values())
    for english in (ROOT / "web" / "docs").glob("*.md"):
        node = read("ja", "nodeDefs.json")[english.stem]
        page = (english.with_suffix("") / "ja.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {node['display_name']}\n")
        names = [words["name"] for name, words in node["inputs"].items() if name != "control_after_generate"]
        assert [name for name in names if f"**{name}**" not in page] == [], english.stem


def placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"\{(\w+)\}", text))


@pytest.mark.parametrize("name", ["pocket", "pocket-flow"])
def test_every_look_and_word_of_a_shipped_encoder_is_there(name):
    looks = TasteEncoder.load(ROOT / "weights" / "taste_encoders" / name).looks
    assert {key for key in read("en", "main.json")["ppd"] if key.startswith("look_")} == {
        f"look_{name}" for name in looks.names
    }
    assert {f"word_{word}" for word in (*looks.low, *looks.high)} <= set(read("ja", "main.json")["ppd"])


def test_the_scripts_use_every_key_and_no_other():
    keys, used = set(read("en", "main.json")["ppd"]), set()
    for script in sorted((ROOT / "web").glob("*.js")):
        for pattern in patterns_used(script.read_text(encoding="utf-8")):
            found = {key for key in keys if re.fullmatch(pattern, key)}
            assert found or pattern.startswith("word_"), f"{script.name} asks for {pattern}, which English lacks"
            used |= found
    assert keys - used == set(), "never used"


def patterns_used(script: str) -> set[str]:
    """Regular expressions of the keys that a script gives to `t`: literals, either side of a condition, templates, and
    a name that goes through a list of literals on the same line."""
    patterns = set()
    for line in script.splitlines():
        arguments = FIRST_ARGUMENT.findall(line)
        assert len(arguments) == len(re.findall(r"(?<!function )\bt\(", line)), f"cannot tell which keys {line} uses"
        for argument in arguments:
            literals = re.findall(r'"(\w+)"', argument.rpartition(" ? ")[2])
            templates = [re.sub(r"\$\{[^}]*\}", r"\\w+", one) for one in re.findall(r"`([^`]*)`", argument)]
            if re.fullmatch(r"\w+", argument):
                ((listed, _),) = re.findall(rf'\[((?:"\w+"(, )?)+)\]\)?\.map\(\({argument}\) =>', line)
                literals = re.findall(r'"(\w+)"', listed)
            found = {*literals, *templates}
            assert found and r"\w+" not in found, f"cannot tell which keys t({argument}) uses"
            patterns |= found
    return patterns


def test_how_keys_are_found():
    lines = (
        't("plain")',
        't("given", { one: two(3) })',
        't(sure(one) ? "yes" : "no", { a })',
        't(side === "one" ? "left" : "right")',
        "`${t(`said_${a.b}`)} ${c}`",
        "t(`${side}_is`)",
        '["tie", "skip"].map((verdict) => button(t(verdict), () => pick(verdict)))',
        "export function t(key) {}",
        'set("not")',
    )
    expected = {"plain", "given", "yes", "no", "left", "right", r"said_\w+", r"\w+_is", "tie", "skip"}
    assert patterns_used("\n".join(lines)) == expected
