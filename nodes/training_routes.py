"""What the node Train User Adapter asks of the server while it trains: how it stands, its pictures, stop and go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import web

from ..ppd.store import MissingError
from ..ppd.training.runs import Training, trainings
from . import folders
from .answers import HEADERS, answer, done
from .bodies import Body, read
from .training_runs import alone, begin_anew, drop_models, name_of, newest, running

PAGE = {"Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"}
"""The report is a page of text and one picture."""


def register(routes: web.RouteTableDef) -> None:
    """Add these routes to ComfyUI's."""
    training = "/ppd/trainings/{name}"
    routes.get("/ppd/trainings")(listed)
    routes.get(training)(state)
    routes.post(f"{training}/stop")(stop)
    routes.post(f"{training}/go-on")(go_on)
    routes.post(f"{training}/anew")(anew)
    routes.get(f"{training}/sheet.png")(sheet)
    routes.get(f"{training}/report.html")(report)


async def listed(request: web.Request) -> web.Response:
    """How all trainings stand, the newest first."""

    def work() -> list[dict[str, Any]]:
        busy = running()
        return [shown(one, busy) for one in trainings(folders.trainings_folder())]

    return await answer(work)


async def state(request: web.Request) -> web.Response:
    """How a training stands; "new" where there is none of that name."""
    return await answer(lambda: shown(_named(request), running()))


async def stop(request: web.Request) -> web.Response:
    """Ask a training to stop after its step; how it stands then."""
    await read(request, Body)
    return await _pressed(request, Training.stop)


async def go_on(request: web.Request) -> web.Response:
    """Start a training again as it was started; how it stands then."""
    await read(request, Body)

    def work(training: Training) -> None:
        with alone(training):
            if not training.state().is_active:  # else a second press
                training.go_on()
                drop_models()

    return await _pressed(request, work)


async def anew(request: web.Request) -> web.Response:
    """Forget what a training has learned, so that the next start begins anew; how it stands then."""
    await read(request, Body)

    def work(_: Training) -> None:
        begin_anew(Training(_folder(request)))  # not its dry run, which may be newer

    return await _pressed(request, work)


async def sheet(request: web.Request) -> web.StreamResponse:
    """The newest sheet of pictures."""
    return await _file(request, "sheet.png", {"Content-Type": "image/png"})


async def report(request: web.Request) -> web.StreamResponse:
    """The report of a finished training."""
    return await _file(request, "report.html", {"Content-Type": "text/html; charset=utf-8", **PAGE})


def shown(training: Training, busy: Training | None) -> dict[str, Any]:
    """How a training stands, for the browser: with the figures of its end, when its sheet was painted, and which other
    one runs."""
    found, sheet = training.state(), training.folder / "sheet.png"
    is_dry_run = training.folder.parent != folders.trainings_folder()
    more = {
        "is_active": found.is_active,
        "is_half_done": Training(training.folder.parent if is_dry_run else training.folder).is_half_done,
        "others": name_of(busy) if busy is not None and busy.folder != training.folder else None,
        "is_dry_run": is_dry_run,
        "sheet": sheet.stat().st_mtime if sheet.is_file() else None,
        "page": (training.folder / "report.html").is_file(),
        "worth": found.worth(),
        "costs": found.costs(),
    }
    return {**asdict(found), **more, "result": None}


def _folder(request: web.Request) -> Path:
    return folders.training_folder(request.match_info["name"])


def _named(request: web.Request) -> Training:
    return newest(_folder(request))


async def _pressed(request: web.Request, work: Callable[[Training], object]) -> web.Response:
    def all_of_it() -> Any:
        work(_named(request))
        return shown(_named(request), running())

    return await answer(all_of_it)


async def _file(request: web.Request, name: str, headers: dict[str, str]) -> web.StreamResponse:
    """A file of a training by a name of ours."""

    def find() -> Path:
        path = _folder(request) / name
        if not path.is_file():
            raise MissingError("This training has not come so far yet: wait, or start it.")
        return path

    return web.FileResponse(await done(find), headers={**HEADERS, **headers})
