"""Sets up `.venv` beside this file and runs the demo or the tests in it; needs Python 3.10 or newer and nothing else.

python3 run.py demo [arguments]    installs what the demo needs, then runs `python -m ppd demo`
python3 run.py test [arguments]    installs what the tests need, with the requirements of the ComfyUI found
                                   (COMFYUI_PATH, the ComfyUI around this folder, ~/comfy/ComfyUI), then runs pytest
python3 run.py setup               installs what the tests need, and stops

Once set up, a start costs nothing until a requirement file changes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
REQUIREMENTS = {"demo": ROOT / "requirements-demo.txt", "test": ROOT / "requirements-dev.txt"}
PACKAGES = (ROOT / "package.json", ROOT / "package-lock.json")
"""What npm, which comes with the tests' requirements, installs into the same folder: TypeScript."""
TORCH_TRIO = ("torch", "torchvision", "torchaudio")


class SetupError(Exception):
    """One sentence for the user: what is wrong and what to do."""


def is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy" / "model_patcher.py").is_file()


def find_comfyui(environment: Mapping[str, str], root: Path, home: Path) -> Path | None:
    """The ComfyUI to test in: COMFYUI_PATH, else the one `root` lies in, else home/comfy/ComfyUI, else None."""
    if named := environment.get("COMFYUI_PATH"):
        folder = Path(named).expanduser().resolve()
        if not is_comfyui(folder):
            raise SetupError(f"COMFYUI_PATH is {named}, which is no ComfyUI checkout: correct it or unset it.")
        return folder
    return next((folder for folder in [*root.parents, home / "comfy" / "ComfyUI"] if is_comfyui(folder)), None)


def requirement_files(file: Path) -> Iterator[Path]:
    """`file` and every file it includes with -r."""
    yield file
    for included in re.findall(r"^-r\s+(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE):
        yield from requirement_files(file.parent / included)


def torch_pins(file: Path) -> list[str]:
    """The pinned torch trio, so that ComfyUI's bare `torch` cannot move it to releases that do not fit each other."""
    text = "\n".join(included.read_text(encoding="utf-8") for included in requirement_files(file))
    return re.findall(rf"^(?:{'|'.join(TORCH_TRIO)})==\S+", text, re.MULTILINE)


def stamp(file: Path, comfyui: Path | None) -> str:
    """Hash of all that an installation depends on: requirement files, their includes, npm's, ComfyUI's requirements."""
    files = [*requirement_files(file), *PACKAGES, *([comfyui / "requirements.txt"] if comfyui else [])]
    return hashlib.sha256(b"\0".join(included.read_bytes() for included in files)).hexdigest()


def stamp_file(venv: Path, purpose: str) -> Path:
    return venv / f"installed-{purpose}"


def is_installed(venv: Path, purpose: str, comfyui: Path | None) -> bool:
    file = stamp_file(venv, purpose)
    if not (venv_python(venv).exists() and file.is_file()):
        return False
    return file.read_text(encoding="utf-8") == stamp(REQUIREMENTS[purpose], comfyui)


def venv_python(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def create_venv(venv: Path) -> None:
    print(f"Creating {venv}", flush=True)
    result = subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)])
    if result.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        raise SetupError(
            f"{sys.executable} could not create a virtual environment: install its venv module "
            "(Debian and Ubuntu: sudo apt install python3-venv) and run this again."
        )


def pip_install(venv: Path, *arguments: str) -> None:
    command = [str(venv_python(venv)), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    if code := subprocess.run(command).returncode:
        raise SetupError(
            f"pip stopped with code {code} (its reason is above) at `pip install {' '.join(arguments)}`: "
            "what it has already downloaded is kept, so run the same command again once that is mended."
        )


def npm_install(venv: Path) -> None:
    for file in PACKAGES:
        shutil.copy(file, venv)
    command = [str(venv_python(venv).with_name("npm")), "ci", "--prefix", str(venv), "--no-audit", "--no-fund"]
    if code := subprocess.run(command).returncode:
        raise SetupError(
            f"npm stopped with code {code} (its reason is above) at `npm ci` for {PACKAGES[0].name}: run the same "
            "command again once that is mended."
        )


def install(venv: Path, purpose: str, comfyui: Path | None) -> None:
    """Brings `venv` up to date for `purpose`. Interrupted anywhere, the next call starts over."""
    if not venv_python(venv).exists():
        create_venv(venv)
    for stale in REQUIREMENTS:
        stamp_file(venv, stale).unlink(missing_ok=True)
    file = REQUIREMENTS[purpose]
    print(f"Installing {file.name} (the first time several GB and some minutes)", flush=True)
    pip_install(venv, "-r", str(file))
    if purpose == "test":
        npm_install(venv)
    if comfyui:
        print(f"Installing the requirements of the ComfyUI in {comfyui}", flush=True)
        constraints = venv / "torch-constraints.txt"
        constraints.write_text("\n".join(torch_pins(file)) + "\n", encoding="utf-8")
        pip_install(venv, "-r", str(comfyui / "requirements.txt"), "-c", str(constraints))
    # The tests' requirements include the demo's, and only the tests look at a ComfyUI.
    stamp_file(venv, "demo").write_text(stamp(REQUIREMENTS["demo"], None), encoding="utf-8")
    if purpose == "test":
        stamp_file(venv, "test").write_text(stamp(file, comfyui), encoding="utf-8")


def execute(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Becomes `command`. Windows has no true exec: there this process waits and passes the exit code on."""
    sys.stdout.flush()
    if os.name == "nt":
        sys.exit(subprocess.run(command, env=environment).returncode)
    os.execve(command[0], command, environment)


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if not arguments or arguments[0] not in ("demo", "test", "setup"):
        raise SetupError(f"expected demo, test or setup, got {' '.join(arguments) or 'nothing'}: see run.py --help.")
    command, *rest = arguments
    if command == "setup" and rest:
        raise SetupError(f"setup takes no arguments, got {' '.join(rest)}.")

    purpose = "demo" if command == "demo" else "test"
    comfyui = find_comfyui(os.environ, ROOT, Path.home()) if purpose == "test" else None
    if not is_installed(VENV, purpose, comfyui):
        install(VENV, purpose, comfyui)

    python, environment = str(venv_python(VENV)), dict(os.environ)
    if command == "demo":
        print("Starting the demo: some seconds until it says more", flush=True)
        # Run where the user stands, so that a relative --out means what it says; the engine is found by path.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
        execute([python, "-m", "ppd", "demo", *rest], environment)
    if command == "test":
        print(f"ComfyUI: {comfyui or 'none found, so the tests that need one are skipped'}", flush=True)
        if comfyui:
            environment["COMFYUI_PATH"] = str(comfyui)
        os.chdir(ROOT)
        execute([python, "-m", "pytest", *rest], environment)
    return 0


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036  (a user may start it with any Python)
        sys.exit(f"run.py: needs Python 3.10 or newer, got {sys.version.split()[0]}: run it with a newer python3.")
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        print(f"run.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
