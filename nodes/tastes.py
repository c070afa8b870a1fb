"""Tastes to share, to keep and to go back to: files of models/user_embeddings, codes, blends, and earlier days."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web
from aiohttp.helpers import content_disposition_header

from ..ppd.messages import quoted
from ..ppd.moodboard import is_rated
from ..ppd.pictures import PreferenceError
from ..ppd.privacy import Guarantee
from ..ppd.store import MissingError
from ..ppd.taste_code import encode
from ..ppd.taste_file import LONGEST_NOTE, TasteCard, thumbnail_of
from ..ppd.user_embedding import UserEmbedding, blend, release
from . import folders, guides, interviews
from .announce import announce
from .answers import answer, done
from .bodies import Blend, Code, GoBack, read, refused
from .encoders import reader_of
from .taste_code import from_code
from .taste_pairs import pairs_of
from .whose import TASTE, taste_file

LARGEST_FILE = 4 << 20
"""Bytes of a taste that is taken in; one without its covariance has a few hundred, and a thumbnail some thousand."""


def register(routes: web.RouteTableDef) -> None:
    """Add these routes to ComfyUI's."""
    person = "/ppd/people/{person}"
    routes.get(f"{person}/taste")(download)
    routes.get(f"{person}/code")(code)
    routes.get(f"{person}/days")(days)
    routes.post(f"{person}/go_back")(go_back)
    routes.get("/ppd/tastes")(tastes)
    routes.post("/ppd/tastes")(take)
    routes.post("/ppd/tastes/code")(take_code)
    routes.post("/ppd/tastes/blend")(take_blend)
    routes.delete("/ppd/tastes/{file:.+}")(delete)


async def download(request: web.Request) -> web.Response:
    """The person's taste as a file; `?name=1`, `?thumbnail=1` and `?note=` put those in, nothing does so by itself."""
    person, asked = request.match_info["person"], request.query

    def work() -> tuple[str, bytes]:
        store = folders.taste_store()
        name = store.person(person).name if asked.get("name") == "1" else ""
        thumbnail = _last_picked(person) if asked.get("thumbnail") == "1" else ""
        card = TasteCard(name, asked.get("note", "")[:LONGEST_NOTE].strip(), thumbnail)
        embedding = _of_person(person)
        with _nowhere() as path:
            embedding.save(path, card=card.metadata())
            return f"{folders.plain_name(name) or 'taste'} {embedding.created}.safetensors", path.read_bytes()

    name, data = await done(work)
    response = web.Response(body=data, content_type="application/octet-stream")
    response.headers["Content-Disposition"] = content_disposition_header("attachment", filename=name)
    response.headers["Cache-Control"] = "private, no-store"
    return response


async def code(request: web.Request) -> web.Response:
    """The person's taste as a line of text; `?epsilon=` hides each of their picks behind noise, and is told with it."""
    person, asked = request.match_info["person"], request.query.get("epsilon", "")

    def work() -> dict[str, Any]:
        embedding = _of_person(person, _guarantee(asked))
        guarantee = embedding.guarantee
        return {"code": encode(embedding), "noise": None if guarantee is None else asdict(guarantee)}

    return await answer(work)


async def tastes(request: web.Request) -> web.Response:
    """The taste files that are here, the newest first, with what they tell; damaged ones with what is wrong."""
    return await answer(lambda: sorted(map(_shown, _names()), key=lambda one: one["created"], reverse=True))


async def take(request: web.Request) -> web.Response:
    """Take in a taste file, which is the body; `?file=` what it was called. Its name here."""
    data, called = await _body(request), request.query.get("file", "")

    def work() -> Any:
        with _nowhere() as path:
            path.write_bytes(data)
            embedding, card = UserEmbedding.load(path), TasteCard.of_file(path)
        return _keep(embedding, card, Path(called).name.removesuffix(".safetensors") or card.name)

    return await answer(work)


async def take_code(request: web.Request) -> web.Response:
    """Make a file of a code: its name here."""
    body = await read(request, Code)
    return await answer(lambda: _keep(from_code(body.code), TasteCard(body.name.strip()), body.name))


async def take_blend(request: web.Request) -> web.Response:
    """Make a file of the taste between two: its name here."""
    body = await read(request, Blend)

    def work() -> Any:
        mixed = blend(_of_choice(body.first), _of_choice(body.second), body.weight)
        return _keep(mixed, TasteCard(body.name.strip()), body.name or "blend")

    return await answer(work)


async def delete(request: web.Request) -> web.Response:
    """Delete a taste file."""

    def work() -> Any:
        taste_file(request.match_info["file"]).unlink()
        folder_paths.filename_list_cache.pop("user_embeddings", None)
        return {}

    return await answer(work)


async def days(request: web.Request) -> web.Response:
    """The days on which the person picked or rated, the newest first: date, and how many picks then."""
    found = await done(lambda: folders.taste_store().days(request.match_info["person"]))
    return web.json_response([{"date": day, "picks": count} for day, count in reversed(found)])


async def go_back(request: web.Request) -> web.Response:
    """Take back what was said after a day, and keep what is there now as somebody new, who is the answer."""
    person, body = request.match_info["person"], await read(request, GoBack)

    def work() -> Any:
        made = folders.taste_store().go_back(person, body.day, body.copy_name, body.request)
        for one in (person, made.id):
            announce(one)
        return asdict(made)

    return await answer(work)


# What the above are made of


async def _body(request: web.Request) -> bytes:
    """The whole body of a request, which may come in many packets and need not say its length beforehand."""
    data = bytearray()
    async for packet in request.content.iter_any():
        data += packet
        if len(data) > LARGEST_FILE:
            break
    if not 0 < len(data) <= LARGEST_FILE:
        raise refused(web.HTTPBadRequest, f"Expected a taste file of at most {LARGEST_FILE >> 20} MB.")
    return bytes(data)


def _of_person(person: str, guarantee: Guarantee | None = None) -> UserEmbedding:
    """As their brand guide lets it be, with noise first where there is a guarantee: that is of picks alone, so without
    what was rated or loved. Refused where there are no picks, for the average person's taste is nobody's to share."""
    who = folders.taste_store().person(person)
    encoder, pairs = interviews.interview_of(person).encoder, pairs_of(person, skipped=[])
    if guarantee is not None:
        pairs = [pair for pair in pairs if not is_rated(pair)]
    embedding = encoder.encode(pairs, on_bad="skip")
    if not embedding.pairs:
        raise ValueError(f"{who.name} has not picked yet, so there is no taste to share: answer some questions first.")
    if guarantee is not None:
        embedding = release(embedding, guarantee)
    return guides.held_back(who, embedding, encoder)[0]


def _guarantee(epsilon: str) -> Guarantee | None:
    """Of what the browser sends; nothing and 0 are no noise."""
    try:
        number = float(epsilon or 0)
    except ValueError:
        raise ValueError(f"Expected a number as epsilon, got {quoted(epsilon)}: 8 is usual, 0 for no noise.") from None
    return Guarantee(number) if number else None


def _of_choice(choice: str) -> UserEmbedding:
    if choice.startswith(TASTE):
        return UserEmbedding.load(taste_file(choice.removeprefix(TASTE)))
    return _of_person(choice)


def _last_picked(person: str) -> str:
    """The picture that the person picked last, as a thumbnail; nothing where it is lost."""
    for pair in reversed(folders.taste_store().pairs(person, skipped=[])):
        if not pair.tie:
            try:
                return thumbnail_of(pair.chosen)
            except PreferenceError:
                continue
    return ""


def _keep(embedding: UserEmbedding, card: TasteCard, name: str) -> dict[str, str]:
    """Write a taste as a new file; nothing else that came with it goes in."""
    reader_of(embedding)
    path = folders.new_taste_file(name)
    try:
        embedding.save(path, with_covariance=embedding.covariance_factor is not None, card=card.metadata())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    folder_paths.filename_list_cache.pop("user_embeddings", None)
    return {"file": path.name}


def _names() -> list[str]:
    folder_paths.filename_list_cache.pop("user_embeddings", None)
    return folder_paths.get_filename_list("user_embeddings")


def _shown(name: str) -> dict[str, Any]:
    shown = {"file": name, "choice": TASTE + name, "created": "", "picks": 0, "problem": None, **asdict(TasteCard())}
    try:
        path = taste_file(name)
        embedding = UserEmbedding.load(path)
        here = reader_of(embedding)
        shown |= asdict(TasteCard.of_file(path))
    except (ValueError, MissingError) as error:
        return shown | {"problem": str(error), "encoder": None, "encoder_here": None}
    shown |= {"created": embedding.created, "picks": embedding.pairs, "encoder": embedding.encoder}
    return shown | {"encoder_here": here}


@contextmanager
def _nowhere() -> Iterator[Path]:
    """A file for the moment, where nothing else looks."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "taste.safetensors"
