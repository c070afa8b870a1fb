"""docs/architecture.md names what is there: files, folders, tests; and rooms import downwards, as it draws them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
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


def floors() -> dict[str, int]:
    """The floor of each room, as the page draws them."""
    drawn = re.findall(r"^    (\d)   (.+)$", PAGE, flags=re.MULTILINE)
    return {room: int(floor) for floor, line in drawn for room in re.findall(r"(?:nodes/|ppd/\w+(?:/|\.py))", line)}


def room_of(path: Path) -> str:
    """The folder in `ppd` or the file that a file lies in, or `nodes`."""
    first, second, *below = path.relative_to(ROOT).parts
    return "nodes/" if first == "nodes" else f"ppd/{second}/" if below else f"ppd/{second}"


def imported(file: Path) -> Iterator[Path]:
    """The files of the pack that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            inside = [base / f"{name.name}.py" for name in node.names]
            yield from (path for path in (base.with_suffix(".py"), base / "__init__.py", *inside) if path.is_file())


def test_rooms_import_downwards():
    floor = floors()
    files = [*(ROOT / "ppd").rglob("*.py"), *(ROOT / "nodes").glob("*.py")]
    assert {room_of(file) for file in files} - {"ppd/__init__.py"} == set(floor)
    arrows = {
        (file, path)
        for file in files
        for path in imported(file)
        if path.name != "__init__.py" or path.parent not in (ROOT, ROOT / "ppd")
    }
    assert len(arrows) > 500
    upward = [
        f"{file.relative_to(ROOT)} -> {path.relative_to(ROOT)}"
        for file, path in sorted(arrows)
        if floor[room_of(path)] > floor[room_of(file)]
    ]
    assert upward == [" -> ".join(arrow) for arrow in re.findall(r"`(ppd/\S+\.py)` -> `(ppd/\S+\.py)`", PAGE)]


def test_files_are_no_longer_than_a_reader_can_hold():
    files = [*(ROOT / "ppd").rglob("*.py"), *(ROOT / "nodes").glob("*.py"), *(ROOT / "web").glob("*.js")]
    long = [file.name for file in files if len(file.read_text(encoding="utf-8").splitlines()) > 450]
    assert long == []
