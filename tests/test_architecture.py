"""docs/architecture.md names what is there: files, folders, tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CODE = re.findall(r"`([^`\n]+)`", PAGE)


def test_files_and_folders_are_there():
    named = {
        code for code in CODE if re.fullmatch(r"(nodes|ppd|tests|web|locales|workflows|weights|benchmarks)/\S*", code)
    }
    drawn = set(re.findall(r"ppd/\S*\.py|ppd/\w+/", PAGE))
    assert len(named | drawn) > 40
    assert [path for path in sorted(named | drawn) if not any(ROOT.glob(path.rstrip("/")))] == []


@pytest.mark.parametrize("room", ["ppd", "nodes", "tests"])
def test_no_room_of_the_house_is_forgotten(room):
    folders = [path.name for path in (ROOT / "ppd").iterdir() if (path / "__init__.py").exists()]
    assert folders and all(f"ppd/{name}/" in PAGE for name in folders)
    assert f"`{room}/`" in PAGE


def test_tests_are_there():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = [code for code in CODE if re.fullmatch(r"test_\w+", code)]
    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in sources] == []


def test_names_of_code_are_there():
    """Classes, functions and tables, such as `Scope.places`."""
    sources = "".join(
        path.read_text(encoding="utf-8") for folder in ("ppd", "tests") for path in (ROOT / folder).rglob("*.py")
    )
    named = {part for code in CODE if re.fullmatch(r"[A-Z]\w+(\.\w+)?", code) for part in code.split(".")}
    missing = [name for name in named if not re.search(rf"(class|def) {name}\b|^{name}\b.* = ", sources, re.MULTILINE)]
    assert len(named) > 15 and missing == []
