"""The engine as a library: what its docstring shows runs, importing it costs nothing, and it installs alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import torch

import ppd

ROOT = Path(__file__).resolve().parents[1]


def test_the_docstrings_lines_run(monkeypatch):
    """On the tracked weights, to a personal prediction: on the person's row, and on no other."""
    monkeypatch.chdir(ROOT)
    lines = textwrap.dedent("\n".join(line for line in ppd.__doc__.splitlines() if line.startswith("    ")))
    x, t, context = torch.randn(1, 4, 16, 16), torch.tensor([900]), torch.randn(1, 77, 128)
    shown: dict = {"x": torch.cat([x, x]), "t": t, "context": torch.cat([context, context])}
    predict = "denoiser(x, t, encoder_hidden_states=context[..., : denoiser.config.cross_attention_dim]).sample"
    with torch.no_grad():
        exec(lines.replace("...", f"personal = {predict}"), shown)  # noqa: S102
        plain = eval(predict, shown)  # noqa: S307
    assert shown["person"].pairs == 4 and shown["person"].u.shape == (1, shown["adapter"].config.embedding_dim)
    assert torch.equal(shown["personal"][0], plain[0])
    assert (shown["personal"][1] - plain[1]).abs().max() > 1e-3
    assert len([line for line in lines.splitlines() if line and not line.startswith(("from", "    "))]) <= 10


def test_importing_the_engine_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import ppd; print(sorted(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['ppd']"


def test_the_package_is_the_engine_and_nothing_of_the_nodes(tmp_path):
    """What setuptools puts into a wheel, imported from where that would be unpacked."""
    source, installed = tmp_path / "source", tmp_path / "installed"
    keep_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("ppd", "nodes"):
        shutil.copytree(ROOT / folder, source / folder, ignore=keep_out)
    for name in ("__init__.py", "pyproject.toml", "README.md", "LICENSE", "run.py"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "build_py", "--build-lib"]
    built = subprocess.run([*command, str(installed)], cwd=source, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    found = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ppd").rglob("*.py")}
    assert found == ours | {"ppd/py.typed", "ppd/lexicon.json"}
    code = "import ppd.lexicon; print(ppd.__file__, len(ppd.lexicon.read_lexicon().looks))"
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.stdout.split() == [str(installed / "ppd" / "__init__.py"), "85"], result.stderr
