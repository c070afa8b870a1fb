"""What surrounds the code: workflows, forms, changelog and citation are well-formed, and what they name is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

import ppd

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
TSC = Path(sys.prefix) / "node_modules" / "typescript" / "bin" / "tsc"
PLACEHOLDER = "your-publisher-id"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PINS = {  # the newest that their authors tag, and that these files were written for
    "actions/checkout@v4",
    "actions/setup-python@v5",
    "Comfy-Org/publish-node-action@v1",
}


def read(path: Path) -> dict:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict), path
    return found


def steps_of(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


def commands_of(workflow: dict) -> str:
    return "\n".join(step["run"] for step in steps_of(workflow) if "run" in step)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_well_formed(path):
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert ("uses" in job) != ("steps" in job and "runs-on" in job), name
        assert set(job.get("needs", []) if isinstance(job.get("needs"), list) else [job.get("needs", name)]) <= set(
            workflow["jobs"]
        )
        if "uses" in job:
            assert (ROOT / job["uses"]).is_file()
            assert "workflow_call" in read(ROOT / job["uses"])[True]  # YAML 1.1 takes `on` for true
    for step in steps_of(workflow):
        assert ("uses" in step) != ("run" in step), step
        assert "uses" not in step or step["uses"] in PINS


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_their_commands_are_bash_and_what_they_name_is_there(path):
    for step in steps_of(read(path)):
        if "run" in step:
            script = re.sub(r"\$\{\{.*?\}\}", "expression", step["run"])
            assert subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True).stderr == ""
    commands = commands_of(read(path))
    commands = re.sub(r'"(weights[^"]*)"', lambda quoted: quoted[1].replace(" ", "?"), commands)
    named = set(
        re.findall(r"(?<![\w/.])(?:tests|weights|\.ci|web)/[\w./*?-]+|(?<![\w/.])[\w-]+\.(?:py|toml)\b", commands)
    )
    assert named
    assert [name for name in named if not any(ROOT.glob(name))] == []
    for command in re.findall(r"-m ppd (\w+)", commands):
        assert f'add_parser("{command}"' in (ROOT / "ppd" / "cli.py").read_text(encoding="utf-8")
    for options in re.findall(r"-m ppd \w+ (.*)", commands):
        for option in re.findall(r"--[\w-]+", options):
            assert f'"{option}"' in (ROOT / "ppd" / "cli.py").read_text(encoding="utf-8")
    for stage in re.findall(
        r"\.ci/run (\w+)", commands + (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    ):
        assert stage in re.search(r"\^\((.*)\)\$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))[1].split("|")


def test_the_matrix_is_what_is_promised():
    """From the oldest Python and ComfyUI that pyproject.toml names to the newest."""
    matrix = read(GITHUB / "workflows" / "checks.yml")["jobs"]["test"]["strategy"]["matrix"]["include"]
    oldest_python = re.search(r'requires-python = ">=(.+)"', PYPROJECT)[1]
    oldest_comfyui = re.search(r'requires-comfyui = ">=(.+)"', PYPROJECT)[1]
    assert [row["python"] for row in matrix] == ["3.10", "3.11", "3.12", "3.13"]
    assert (matrix[0]["python"], matrix[0]["comfyui"]) == (oldest_python, f"v{oldest_comfyui}")
    assert matrix[-1]["comfyui"] == "master"
    systems = read(GITHUB / "workflows" / "checks.yml")["jobs"]["smoke"]["strategy"]["matrix"]["system"]
    assert systems == ["windows-latest", "macos-latest"]


def test_publishing_sees_a_new_version_and_refuses_placeholders(tmp_path):
    """Its own commands, on a repository whose version changes."""
    if not (shutil.which("bash") and shutil.which("git")):
        pytest.skip("needs bash and git")
    jobs = read(GITHUB / "workflows" / "publish.yml")["jobs"]
    compare = next(step["run"] for step in jobs["version"]["steps"] if step.get("id") == "compare")
    refuse = next(step["run"] for step in jobs["publish"]["steps"] if "placeholder" in step.get("name", ""))

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    def changed(before: str) -> bool:
        output = tmp_path / "output"
        output.write_text("")
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "BEFORE": before, "GITHUB_OUTPUT": str(output)}
        subprocess.run(["bash", "-e", "-c", compare], cwd=tmp_path, check=True, env=environment, capture_output=True)
        return output.read_text() == "changed=true\n"

    git("init", "-q")
    for text in (
        PYPROJECT,
        PYPROJECT + "# a comment\n",
        re.sub(r'(?m)^version = ".*"', 'version = "9.9.9"', PYPROJECT),
    ):
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
        git("add", "pyproject.toml")
        git("commit", "-qm", "change")
    third, second, first = git("log", "--format=%H").split()
    assert changed(second) and changed(first) and changed("") and not changed(third)
    git("checkout", "-q", second)
    assert not changed(first)
    refused = subprocess.run(["bash", "-c", refuse], cwd=tmp_path, capture_output=True, text=True)
    assert (refused.returncode == 1) == (PLACEHOLDER in PYPROJECT)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_forms_are_what_github_takes(path):
    form = read(path)
    assert set(form) == {"name", "description", "labels", "body"}
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    ids = [part["id"] for part in asked]
    assert len(ids) == len(set(ids)) and any(part.get("validations", {}).get("required") for part in asked)
    for part in form["body"]:
        assert part["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert part["attributes"]["value" if part["type"] == "markdown" else "label"].strip()
        assert part["type"] not in ("dropdown", "checkboxes") or part["attributes"]["options"]


def test_other_files_of_github_and_precommit():
    assert read(GITHUB / "ISSUE_TEMPLATE" / "config.yml") == {"blank_issues_enabled": False, "contact_links": []}
    updates = read(GITHUB / "dependabot.yml")["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"github-actions", "npm", "pip"}
    hooks = [hook for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert [hook["id"] for hook in hooks] == ["ruff-check", "ruff-format", "mypy", "tsc"]


def test_the_citation_names_paper_and_software():
    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == ppd.__version__ and citation["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    assert paper["title"] == "Personalized Preference Fine-tuning of Diffusion Models"
    assert "2501.06655" in paper["url"] and len(paper["authors"]) == 5


def test_the_changelog_has_this_version():
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert ppd.__version__ in versions and versions == sorted(versions, reverse=True)


def test_links_and_paths_of_these_pages_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), GITHUB / "pull_request_template.md"]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(((?!https?:|#)[^)#]+)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
    text = "".join(
        (ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "docs/review.md", "SECURITY.md")
    )
    named = set(re.findall(r"`((?:ppd|nodes|tests|web|locales|docs|\.github)/[\w./-]+)`", text))
    assert len(named) > 12 and [name for name in named if not (ROOT / name).exists()] == []


def test_placeholders_are_where_contributing_says():
    found = {
        path.relative_to(ROOT).as_posix()
        for path in [*ROOT.glob("*.*"), *GITHUB.rglob("*.yml"), *(ROOT / "docs").glob("*.md")]
        if path.suffix in (".toml", ".cff", ".md", ".yml") and PLACEHOLDER in path.read_text(encoding="utf-8")
    }
    assert found <= {"pyproject.toml", "CITATION.cff", "CONTRIBUTING.md", ".github/workflows/publish.yml"}


@pytest.mark.parametrize(("name", "size"), [("Icon", (400, 400)), ("Banner", (1680, 720))])
def test_pictures_for_the_registry(name, size):
    address = re.search(
        rf'^{name} = "https://raw\.githubusercontent\.com/[^/]+/[^/]+/main/(.+)"', PYPROJECT, re.MULTILINE
    )[1]
    with Image.open(ROOT / address) as picture:
        assert picture.size == size and picture.format == "PNG"
    drawing = (ROOT / address).with_suffix(".svg").read_text(encoding="utf-8")
    assert f'width="{size[0]}" height="{size[1]}"' in drawing


@pytest.mark.skipif(not TSC.exists(), reason="needs TypeScript: python3 run.py setup")
def test_the_compiler_finds_one_mistake_in_the_browsers_part_and_that_is_planted(tmp_path):
    planted, project = tmp_path / "planted.js", tmp_path / "tsconfig.json"
    planted.write_text("/** @type {PPD.Verdict} */\nexport const verdict = 'third';\n")
    include = [str(ROOT / "web"), str(planted)]
    project.write_text(json.dumps({"extends": str(ROOT / "tsconfig.json"), "include": include}))
    command = [Path(sys.executable).with_name("node"), TSC, "--project", project]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout.splitlines()
    assert found == ["planted.js(2,14): error TS2322: Type '\"third\"' is not assignable to type 'Verdict'."]
