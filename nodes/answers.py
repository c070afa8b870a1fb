"""How our routes answer: what a piece of work returns, done in a thread of ours, or its refusal as one sentence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from ..ppd.pictures import Picture, PreferenceError
from ..ppd.store import MissingError, UnusableError
from . import folders
from .bodies import refused

Result = TypeVar("Result")

THREADS = 4
"""Of our own, since ComfyUI serves pictures from threads that it shares with everybody."""
PATIENCE = 10.0
"""Seconds from a request's arrival that it may wait for a thread, and for other programs to let go of the store."""
SHOWN = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
}
"""What browsers show, by the ending of the format's files."""
HEADERS = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
"""No browser keeps a picture, since it may be erased."""

_threads = ThreadPoolExecutor(THREADS, "ppd")
_long = ThreadPoolExecutor(1, "ppd-long")
"""For work on many files, one after the other, so that nobody's press waits for it."""


async def answer(work: Callable[[], Any], takes_long: bool = False) -> web.Response:
    """What `work` returns, as JSON; what `takes_long` waits for others of its kind only, and as long as they take."""
    return web.json_response(await done(work, takes_long))


async def done(work: Callable[[], Result], takes_long: bool = False) -> Result:
    """What `work` returns, done in a thread, or its refusal as one sentence: 404 for what is not there, 400 for what
    cannot be used, 503 where the disk, or another program, does not let us read or write."""
    try:
        return await (_in_turn(work) if takes_long else _in_time(work))
    except MissingError as error:
        raise refused(web.HTTPNotFound, str(error)) from error
    except UnusableError as error:
        raise refused(web.HTTPServiceUnavailable, str(error)) from error
    except ValueError as error:
        raise refused(web.HTTPBadRequest, str(error)) from error
    except OSError as error:
        raise refused(web.HTTPServiceUnavailable, f"A file could not be read or written ({error}).") from error


async def file(find: Callable[[], Path], content_type: str) -> web.StreamResponse:
    """The file of a picture that `find` names."""
    path = await done(lambda: _shown(find))
    return web.FileResponse(path, headers={"Content-Type": content_type, **HEADERS})


async def picture(find: Callable[[], Picture]) -> web.Response:
    """The picture that `find` returns, as what it is, or as PNG where browsers do not show its format."""

    def work() -> tuple[bytes, str]:
        found = find()
        content_type = SHOWN.get(found.extension())
        shown = found if content_type else Picture.from_image(found.open())
        return shown.read(), content_type or "image/png"

    data, content_type = await done(lambda: _shown(work))
    return web.Response(body=data, headers={"Content-Type": content_type, **HEADERS})


def _shown(work: Callable[[], Result]) -> Result:
    """What `work` returns; of a picture that is damaged, a whole sentence."""
    try:
        return work()
    except PreferenceError as error:
        raise PreferenceError(f"This picture cannot be shown: {error}; restore its file.") from error


async def _in_turn(work: Callable[[], Result]) -> Result:
    """What `work` returns, after whatever else takes long."""
    return await asyncio.wrap_future(_long.submit(work))


async def _in_time(work: Callable[[], Result]) -> Result:
    """What `work` returns, which must begin within the patience; what has begun is waited for."""
    end = time.monotonic() + PATIENCE

    def hurried() -> Result:
        with folders.taste_store().database.hurried(max(0.0, end - time.monotonic())):
            return work()

    waiting = _threads.submit(hurried)
    result = asyncio.wrap_future(waiting)
    try:
        return await asyncio.wait_for(asyncio.shield(result), PATIENCE)
    except asyncio.TimeoutError:
        if waiting.cancel():
            raise UnusableError(
                "The taste store is busy: another program holds it, or earlier requests are not done yet. Wait, and "
                "try again."
            ) from None
        return await result
