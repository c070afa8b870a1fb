"""How our routes answer: what a piece of work returns, done in a thread, or its refusal as one sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from ..ppd.store import MissingError, UnusableError
from .bodies import refused

Result = TypeVar("Result")


async def answer(work: Callable[[], Any]) -> web.Response:
    """What `work` returns, as JSON."""
    return web.json_response(await done(work))


async def done(work: Callable[[], Result]) -> Result:
    """What `work` returns, done in a thread, or its refusal as one sentence: 404 for what is not there, 400 for what
    cannot be used, 503 where the disk does not let us read or write."""
    try:
        return await asyncio.to_thread(work)
    except MissingError as error:
        raise refused(web.HTTPNotFound, str(error)) from error
    except UnusableError as error:
        raise refused(web.HTTPServiceUnavailable, str(error)) from error
    except ValueError as error:
        raise refused(web.HTTPBadRequest, str(error)) from error
    except OSError as error:
        raise refused(web.HTTPServiceUnavailable, f"A file could not be read or written ({error}).") from error


async def file(find: Callable[[], Path], content_type: str) -> web.StreamResponse:
    """The file that `find` names; no browser keeps it, since it may be erased."""
    headers = {"Content-Type": content_type, "Cache-Control": "private, no-store"}
    return web.FileResponse(await done(find), headers=headers)
