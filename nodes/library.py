"""Rating finished pictures: the routes that list ComfyUI's folders, show what lies there, and take what somebody says.

What is rated is copied into the taste store, so it stays a person's when the file is deleted. Where the copy came from
is kept with it, so that a page of a folder knows what was rated without reading its files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from ..ppd.files import Stamp, file_digest, stamp
from ..ppd.finished import Finished, finished_picture, finished_pictures, forget_prompts, prompt_of
from ..ppd.messages import quoted
from ..ppd.pictures import Picture, PreferenceError
from ..ppd.store import Found
from . import folders
from .announce import announce
from .answers import HEADERS, answer, done
from .answers import picture as shown_picture
from .bodies import Rating, RestRating, read
from .forgetting import forgets

PAGE = 60
AT_ONCE = 32
"""Pictures that are rated in one transaction, so that others come to write between them."""
LONGEST_PAGE = 240
"""Pictures in one reply, by default and at most."""
THUMBNAIL = 320
"""Longer side in pixels."""
REMEMBERED = 1024
"""Thumbnails kept in memory, about 15 MB."""
PLACE = ("folder", "picture", "size", "modified")
"""What is kept with a rated picture of where it lay."""


def register(routes: web.RouteTableDef) -> None:
    """Add these routes to ComfyUI's."""
    person = "/ppd/people/{person}/library"
    routes.get("/ppd/library/folders")(folder_names)
    routes.get("/ppd/library/picture")(picture)
    routes.get("/ppd/library/thumbnail")(thumbnail)
    routes.get(person)(page)
    routes.get(f"{person}/pictures")(some)
    routes.post(f"{person}/ratings")(rate)
    routes.get(f"{person}/rest")(count_rest)
    routes.post(f"{person}/rest")(rate_rest)


async def folder_names(request: web.Request) -> web.Response:
    """Names of the folders that can be looked through."""
    return await answer(folders.finished_folders)


async def page(request: web.Request) -> web.Response:
    """Pictures of `?folder=`, the newest first, from behind the cursor `?before=` on, with `?unrated=1` only those;
    the next page's cursor or null; and what the person's ratings gave."""
    person, query = request.match_info["person"], request.query

    def work() -> Any:
        word, root, below = folders.finished_folder(query.get("folder", "output"))
        limit = min(_number(query.get("limit", str(PAGE))), LONGEST_PAGE)
        rated, cursor = _rated(person), None
        shown: list[dict[str, Any]] = []
        for one in _behind(finished_pictures(root, below), query.get("before", "")):
            if len(shown) == limit:
                return {"pictures": shown, "next": cursor, "counts": _counts(person)}
            cursor = f"{one.modified}/{one.name}"
            with suppress(OSError):  # gone meanwhile
                rating = rated.of(word, root / one.name, one)
                if not (query.get("unrated") and rating):
                    shown.append(_shown(word, root / one.name, one, rating))
        return {"pictures": shown, "next": None, "counts": _counts(person)}

    return await answer(work)


async def some(request: web.Request) -> web.Response:
    """Those pictures of `?folder=`, by the word for its root, that `?picture=` names, which may come several times."""
    person, word = request.match_info["person"], request.query.get("folder", "")

    def work() -> Any:
        rated, shown = _rated(person), []
        for name in request.query.getall("picture", [])[:LONGEST_PAGE]:
            path = folders.finished_file(word, name)
            one = finished_picture(path, name)
            shown.append(_shown(word, path, one, rated.of(word, path, one)))
        return shown

    return await answer(work)


async def rate(request: web.Request) -> web.Response:
    """Keep a picture, or not for me; what the person's ratings give then."""
    person, body = request.match_info["person"], await read(request, Rating)

    def work() -> Any:
        path = folders.finished_file(body.folder, body.picture)
        with _explained():
            _rate(person, body.folder, path, finished_picture(path, body.picture), body.rating, body.request)
        announce(person, body.request)
        return _counts(person)

    return await answer(work)


async def count_rest(request: web.Request) -> web.Response:
    """How many pictures of the prompt of `?folder=` and `?picture=` are not rated in the folder `?within=`."""
    person, query = request.match_info["person"], request.query

    def work() -> Any:
        path = folders.finished_file(query.get("folder", ""), query.get("picture", ""))
        return {"count": len(_rest(person, path, query.get("within", "")))}

    return await answer(work, takes_long=True)


async def rate_rest(request: web.Request) -> web.Response:
    """Rate all pictures of a folder that have a picture's prompt and no rating yet: which, and what that gives."""
    person, body = request.match_info["person"], await read(request, RestRating)

    def work() -> Any:
        word, root, _ = folders.finished_folder(body.within)
        rest = _rest(person, folders.finished_file(body.folder, body.picture), body.within)
        rated = []
        for start in range(0, len(rest), AT_ONCE):
            found = []
            for one in rest[start : start + AT_ONCE]:
                with suppress(PreferenceError, OSError):  # gone meanwhile
                    picture = Picture(data=Picture(root / one.name).read())
                    found.append(Found(prompt_of(root / one.name), picture, _origin(word, one)))
            kept = folders.taste_store().rate_all(person, found, body.rating, body.request)
            rated += [one.origin["picture"] for one in kept]
        announce(person, body.request)
        return {"pictures": rated, "counts": _counts(person)}

    return await answer(work, takes_long=True)


async def picture(request: web.Request) -> web.Response:
    """The picture of `?folder=` and `?picture=` itself."""
    query = request.query
    return await shown_picture(
        lambda: Picture(folders.finished_file(query.get("folder", ""), query.get("picture", "")))
    )


async def thumbnail(request: web.Request) -> web.Response:
    """The picture of `?folder=` and `?picture=` as a small JPEG."""

    def work() -> bytes:
        path = folders.finished_file(request.query.get("folder", ""), request.query.get("picture", ""))
        with _explained():
            return _small(path, stamp(path))

    return web.Response(body=await done(work), content_type="image/jpeg", headers=HEADERS)


# What the above are made of


@forgets
def forget(person: str) -> None:
    """Drop what was rated, and what was read and shown of files, of whoever looked through them."""
    _rated_at.cache_clear()
    _small.cache_clear()
    forget_prompts()


@dataclass
class _Rated:
    """What a person has rated, by where it lay, and by content for what was moved or copied since."""

    by_place: dict[tuple[Any, ...], str | None] = field(default_factory=dict)
    by_content: dict[str, str | None] = field(default_factory=dict)
    sizes: set[int] = field(default_factory=set)

    def of(self, word: str, path: Path, one: Finished) -> str | None:
        """The rating of a picture; a file is read only where its size is that of a rated one."""
        known = self.by_place.get(_place(word, one))
        if known is None and one.size in self.sizes:
            return self.by_content.get(file_digest(path))
        return known


def _place(word: str, one: Finished) -> tuple[Any, ...]:
    return word, one.name, one.size, one.modified


def _rated(person: str) -> _Rated:
    store = folders.taste_store()
    return _rated_at(store.person(person).id, store.revision(person))


@lru_cache(maxsize=4)
def _rated_at(person: str, revision: int) -> _Rated:
    found = _Rated()
    for one in reversed(folders.taste_store().rated(person, limit=2**31)):  # of two the later counts
        found.by_content[one.digest] = one.rating
        if set(PLACE) <= set(one.origin):  # else it was kept by another way
            found.by_place[tuple(one.origin[name] for name in PLACE)] = one.rating
            found.sizes.add(one.origin["size"])
    return found


def _behind(pictures: list[Finished], cursor: str) -> Iterator[Finished]:
    """What comes after a cursor, though pictures may have come and gone since it was made."""
    modified, _, name = cursor.partition("/")
    last = (_number(modified), name) if cursor else None
    return (one for one in pictures if last is None or (one.modified, one.name) < last)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except PreferenceError as error:
        raise ValueError(f"It may be damaged, or not written to its end yet: {error}.") from error


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 20):
        raise ValueError(f"Expected a whole number, got {quoted(text)}: reload the list.")
    return int(text)


def _shown(word: str, path: Path, one: Finished, rating: str | None) -> dict[str, Any]:
    query = urlencode({"folder": word, "picture": one.name, "modified": one.modified})
    return {
        "folder": word,
        "name": one.name,
        "size": one.size,
        "prompt": prompt_of(path),
        "rating": rating,
        "picture": f"/ppd/library/picture?{query}",
        "thumbnail": f"/ppd/library/thumbnail?{query}",
    }


def _rate(person: str, word: str, path: Path, one: Finished, rating: Any, request: str) -> None:
    store = folders.taste_store()
    kept = store.add_picture(person, prompt_of(path), Picture(path), _origin(word, one))
    store.rate(person, kept, rating, request)


def _origin(word: str, one: Finished) -> dict[str, Any]:
    return dict(zip(PLACE, _place(word, one), strict=True))


def _rest(person: str, path: Path, within: str) -> list[Finished]:
    """The pictures of a folder that have this one's prompt and no rating yet; none where that is not known."""
    word, root, below = folders.finished_folder(within)
    prompt, rated = prompt_of(path), _rated(person)
    return [
        one
        for one in (finished_pictures(root, below) if prompt else ())
        if root / one.name != path and prompt_of(root / one.name) == prompt and not rated.of(word, root / one.name, one)
    ]


def _counts(person: str) -> dict[str, int]:
    """How many pictures the person keeps and does not; how many of the former are choices against others of their
    prompt, and how many make the moodboard."""
    store = folders.taste_store()
    ratings = [one.rating for one in store.rated(person, limit=2**31)]
    kept, moodboard = ratings.count("keep"), len(store.moodboard(person))
    return {"kept": kept, "not": ratings.count("not"), "choices": kept - moodboard, "moodboard": moodboard}


@lru_cache(maxsize=REMEMBERED)
def _small(path: Path, changed: Stamp) -> bytes:
    return Picture(path).small_jpeg(THUMBNAIL)
