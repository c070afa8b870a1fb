"""What the Taste panel asks of the server: questions, pictures, picks. Thin over the taste store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from ..ppd.store import Candidate, StoreError
from . import folders

PREFIX = "/ppd"
LARGEST_BODY = 4096
"""Bytes; a pick has about a hundred."""


def register(routes: web.RouteTableDef) -> None:
    """Add the panel's routes to ComfyUI's."""
    routes.get(f"{PREFIX}/people")(people)
    routes.get(f"{PREFIX}/people/{{person}}/question")(question)
    routes.get(f"{PREFIX}/people/{{person}}/questions/{{candidate:[0-9]{{1,18}}}}")(asked)
    routes.get(f"{PREFIX}/pictures/{{digest}}")(picture)
    routes.post(f"{PREFIX}/people/{{person}}/picks")(pick)
    routes.post(f"{PREFIX}/people/{{person}}/undo")(undo)


async def people(request: web.Request) -> web.Response:
    """Everybody: id, name, picks, open."""
    return await _answer(lambda: [asdict(person) for person in folders.taste_store().people()])


async def question(request: web.Request) -> web.Response:
    """The newest question of a person that has no answer, or null; and how the person stands."""
    person = request.match_info["person"]
    return await _answer(lambda: _state(person))


async def asked(request: web.Request) -> web.Response:
    """A question of the person by its number: what was shown, the verdict or null, and whether undo takes it back."""
    person, number = request.match_info["person"], int(request.match_info["candidate"])

    def work() -> Any:
        store = folders.taste_store()
        candidate = store.candidate(number)
        if candidate.person != store.person(person).id:
            raise StoreError(f"Question {number} was not asked of this person.")
        latest = [one.id for one in store.history(person, limit=1)]
        return {**_shown(candidate), "verdict": candidate.verdict, "latest": latest == [number]}

    return await _answer(work)


async def picture(request: web.Request) -> web.StreamResponse:
    """A picture by its sha256."""
    try:
        path = await asyncio.to_thread(folders.taste_store().picture, request.match_info["digest"])
    except StoreError as error:
        return web.json_response({"error": str(error)}, status=404)
    headers = {"Content-Type": "image/png", "Cache-Control": "private, max-age=31536000, immutable"}
    return web.FileResponse(path, headers=headers)


async def pick(request: web.Request) -> web.Response:
    """Answer a question: {"candidate": number, "verdict": text, "request": text}; how the person stands then."""
    person, body = (
        request.match_info["person"],
        await _body(request, {"candidate": int, "verdict": str, "request": str}),
    )

    def work() -> Any:
        store = folders.taste_store()
        if store.candidate(body["candidate"]).person != store.person(person).id:
            raise StoreError(f"Question {body['candidate']} was not asked of this person.")
        store.pick(body["candidate"], body["verdict"], body["request"])
        return _state(person)

    return await _answer(work)


async def undo(request: web.Request) -> web.Response:
    """Take back the person's latest pick: {"request": text}; how the person stands then."""
    person, body = request.match_info["person"], await _body(request, {"request": str})

    def work() -> Any:
        folders.taste_store().undo(folders.taste_store().person(person).id, body["request"])
        return _state(person)

    return await _answer(work)


def _state(person: str) -> dict[str, Any]:
    store = folders.taste_store()
    somebody, inbox = store.person(person), store.inbox(person, limit=1)
    return {"person": asdict(somebody), "question": _shown(inbox[0]) if inbox else None}


def _shown(candidate: Candidate) -> dict[str, Any]:
    return {name: getattr(candidate, name) for name in ("id", "prompt", "first", "second")}


async def _body(request: web.Request, fields: dict[str, type]) -> dict[str, Any]:
    """A small JSON object of exactly these fields, none longer than 200; anything else is a 400."""
    expected = f"expected a JSON object of {', '.join(f'{name} ({kind.__name__})' for name, kind in fields.items())}"
    if request.content_type != "application/json" or (request.content_length or LARGEST_BODY + 1) > LARGEST_BODY:
        raise _bad(expected)
    try:
        body = await request.json()
    except ValueError:
        raise _bad(expected) from None
    if not isinstance(body, dict) or {name: type(value) for name, value in body.items()} != fields:
        raise _bad(expected)
    if any(isinstance(value, str) and not 0 < len(value) <= 200 for value in body.values()):
        raise _bad("expected texts of 1 to 200 characters")
    if any(isinstance(value, int) and not 0 < value < 2**62 for value in body.values()):
        raise _bad("expected a positive number")
    return body


def _bad(message: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=f"Bad request: {message}.")


async def _answer(work: Callable[[], Any]) -> web.Response:
    """What `work` returns, done in a thread; the store's refusals are a 404 with their sentence."""
    try:
        return web.json_response(await asyncio.to_thread(work))
    except StoreError as error:
        return web.json_response({"error": str(error)}, status=404)
