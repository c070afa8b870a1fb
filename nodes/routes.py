"""What the Taste panel asks of the server: people, questions, pictures, picks. Thin over the taste store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from aiohttp import web
from comfy.cli_args import args

from ..ppd.grids import SIZES
from ..ppd.pictures import Picture, PreferenceError
from ..ppd.store import Candidate, MissingError
from ..ppd.store.candidates import MOST_CHOICES
from . import answers, folders, forgetting, guides, interviews, study_questions
from .announce import announce
from .answers import answer, file
from .bodies import (
    LARGEST_NUMBER,
    Asked,
    Body,
    BrandGuide,
    Choice,
    Encoder,
    HalfLife,
    Import,
    Model,
    Named,
    Pick,
    StudyQuestions,
    read,
    refused,
)
from .people import ME
from .standing import shown, standing

PREFIX = "/ppd"
LONGEST_PAGE = 1000
"""Answers in one reply at most, and by default."""
UNFINISHED = "The last traces go once another program lets go of the taste store: close it, then open the tab again."


def register(routes: web.RouteTableDef) -> None:
    """Add the panel's routes to ComfyUI's."""
    person = f"{PREFIX}/people/{{person}}"
    routes.get(f"{PREFIX}/people")(people)
    routes.post(f"{PREFIX}/people")(add_person)
    routes.delete(person)(delete_person)
    routes.post(f"{person}/rename")(rename)
    routes.post(f"{person}/duplicate")(duplicate)
    routes.post(f"{person}/half_life")(set_half_life)
    routes.post(f"{person}/encoder")(set_encoder)
    routes.post(f"{person}/guide")(set_guide)
    routes.post(f"{person}/studies")(ask_from_studies)
    routes.post(f"{person}/export")(export)
    routes.post(f"{person}/import")(import_pairs)
    routes.get(f"{person}/question")(question)
    routes.get(f"{person}/questions/{{candidate}}")(asked)
    routes.get(f"{person}/waiting")(waiting)
    routes.get(f"{person}/history")(history)
    routes.get(f"{person}/answers")(count_answers)
    routes.post(f"{person}/picks")(pick)
    routes.post(f"{person}/choices")(choose)
    routes.post(f"{person}/undo")(undo)
    routes.post(f"{person}/skip_left_over")(skip_left_over)
    routes.get(f"{PREFIX}/pictures/{{digest}}")(picture)
    routes.get(f"{PREFIX}/thumbnails/{{digest}}")(thumbnail)
    routes.get(f"{PREFIX}/sets")(preference_sets)
    routes.get(f"{PREFIX}/studies")(study_sets)


# People


async def people(request: web.Request) -> web.Response:
    """Everybody, whose id stands behind "me" in workflows, and whether all of ComfyUI's users share them."""

    def work() -> Any:
        store = folders.taste_store()
        me = store.person_called(ME)
        everybody = [asdict(person) for person in store.people()]
        return {"people": everybody, "me": me and me.id, "shared": bool(args.multi_user)}

    return await answer(work)


async def add_person(request: web.Request) -> web.Response:
    """A new person by name."""
    body = await read(request, Named)

    def work() -> Any:
        made = folders.taste_store().add_person(body.name)
        announce(made.id, body.request)
        return asdict(made)

    return await answer(work)


async def delete_person(request: web.Request) -> web.Response:
    """Erase a person, the pictures nobody else has, and what was seen in them: whether that is finished, or the last
    traces go once another program lets go of the store."""
    person = request.match_info["person"]

    def work() -> Any:
        store = folders.taste_store()
        digests = store.digests(person)
        forgetting.erase(person)
        finished = store.delete_person(person)
        try:
            forgetting.forget(person)
        finally:
            for digest in digests:  # again, for one who was still looking when the pictures went
                if not store.has_picture(digest):
                    folders.forget_features(digest)
            announce(person, request.query.get("request"))
        return {"finished": finished} if finished else {"finished": finished, "note": UNFINISHED}

    return await answer(work)


async def rename(request: web.Request) -> web.Response:
    """Another name for the person."""
    person, body = request.match_info["person"], await read(request, Named)

    def work() -> Any:
        folders.taste_store().rename(person, body.name)
        announce(person, body.request)
        return asdict(folders.taste_store().person(person))

    return await answer(work)


async def duplicate(request: web.Request) -> web.Response:
    """A new person with the same questions and picks."""
    person, body = request.match_info["person"], await read(request, Named)

    def work() -> Any:
        made = folders.taste_store().duplicate(person, body.name)
        announce(made.id, body.request)
        return asdict(made)

    return await answer(work)


async def set_half_life(request: web.Request) -> web.Response:
    """How fast the person's picks fade; how the person stands then."""
    return await _set(request, HalfLife, lambda person, body: folders.taste_store().set_half_life(person, body.picks))


async def set_encoder(request: web.Request) -> web.Response:
    """Which taste encoder reads the person's pictures, from now on and anew; how the person stands then."""
    return await _set(request, Encoder, lambda person, body: interviews.set_encoder(person, body.encoder))


async def set_guide(request: web.Request) -> web.Response:
    """Which brand guide the person's taste is bound to, from now on; how the person stands then."""
    return await _set(request, BrandGuide, lambda person, body: guides.set_guide(person, body.guide))


async def _set(request: web.Request, model: type[Model], change: Callable[[str, Model], None]) -> web.Response:
    person, body = request.match_info["person"], await read(request, model)

    def work() -> Any:
        change(person, body)
        return _changed(person, body)

    return await answer(work)


async def export(request: web.Request) -> web.Response:
    """Write the person's pairs as a preference set into the datasets folder: where."""
    person = request.match_info["person"]
    await read(request, Body)

    def work() -> Any:
        store = folders.taste_store()
        path = folders.new_preference_set(store.person(person).name)
        try:
            store.export(person, path)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)  # a set without all of its pairs is none
            raise
        return {"path": str(path)}

    return await answer(work, takes_long=True)


async def import_pairs(request: web.Request) -> web.Response:
    """Take over the pairs of a preference set as picks: how many are new."""
    person, body = request.match_info["person"], await read(request, Import)

    def work() -> Any:
        skipped: list[PreferenceError] = []
        path = folders.preference_set(body.preference_set)
        new = folders.taste_store().add_pairs(person, path, skip_bad=body.skip_bad, skipped=skipped)
        announce(person, body.request)
        return {"new": new, "left_out": [str(error) for error in skipped]}

    return await answer(work, takes_long=True)


async def study_sets(request: web.Request) -> web.Response:
    """Names of the sets of studies that can be asked from."""
    return await answer(folders.study_sets)


async def ask_from_studies(request: web.Request) -> web.Response:
    """File pairs of a set of studies as questions: how many are new."""
    person, body = request.match_info["person"], await read(request, StudyQuestions)

    def work() -> Any:
        new = study_questions.ask_from_studies(person, body.studies)
        announce(person, body.request)
        return {"new": new}

    return await answer(work, takes_long=True)


async def preference_sets(request: web.Request) -> web.Response:
    """Names of the preference sets that can be taken over."""
    return await answer(folders.preference_sets)


# Questions and picks


async def question(request: web.Request) -> web.Response:
    """How the person stands, and what to ask next or null, `?of=` so many pictures; or `?candidate=` a question of
    theirs, decided or not."""
    person, of = request.match_info["person"], _number(request.query.get("of", "2"))
    wanted = _number(request.query["candidate"]) if "candidate" in request.query else None
    return await answer(
        lambda: standing(person, min(of, max(SIZES)), None if wanted is None else _theirs(person, wanted))
    )


async def asked(request: web.Request) -> web.Response:
    """A question of the person by its number, and whether it has the latest pick, which undo takes back."""
    person, number = request.match_info["person"], _number(request.match_info["candidate"])

    def work() -> Any:
        revision = folders.taste_store().revision(person)  # before what it may be older than
        candidate = _theirs(person, number)
        latest = [one.id for one in folders.taste_store().history(person, limit=1)]
        return {**shown(candidate), "latest": latest == [number], "revision": revision}

    return await answer(work)


async def waiting(request: web.Request) -> web.Response:
    """How many questions that would be asked wait for the person's answer."""
    person = request.match_info["person"]
    return await answer(lambda: {"waiting": interviews.waiting(person)})


async def count_answers(request: web.Request) -> web.Response:
    """How many answers the person's pairs are of: `first_answers` of the nodes counts the same."""
    person = request.match_info["person"]
    return await answer(lambda: {"answers": len(folders.taste_store().answers(person))})


async def history(request: web.Request) -> web.Response:
    """At most `?limit=` decided questions, the latest pick first, `?before=` a pick's number."""
    person, before = request.match_info["person"], _number(request.query.get("before", str(LARGEST_NUMBER)))
    limit = min(_number(request.query.get("limit", str(LONGEST_PAGE))), LONGEST_PAGE)

    def work() -> Any:
        store = folders.taste_store()
        page = store.history(store.person(person).id, before=before, limit=limit + 1)
        return {"picks": [shown(one) for one in page[:limit]], "more": len(page) > limit}

    return await answer(work)


async def pick(request: web.Request) -> web.Response:
    """Answer a question, for the first time or anew; how the person stands then."""
    person, body = request.match_info["person"], await read(request, Pick)

    def work() -> Any:
        number = _theirs(person, body.candidate).id
        folders.taste_store().pick(number, body.verdict, body.request)
        return _changed(person, body, [number])

    return await answer(work)


async def choose(request: web.Request) -> web.Response:
    """Answer a grid, or skip it; how the person stands then."""
    person, body = request.match_info["person"], await read(request, Choice)

    def work() -> Any:
        store, before = folders.taste_store(), _latest(person)
        if body.best is None:
            interviews.pass_over(person, body.pictures)
        else:
            store.choose(person, body.prompt, body.pictures, body.best, body.request)
        return _changed(person, body, before ^ _latest(person))

    return await answer(work)


async def undo(request: web.Request) -> web.Response:
    """Take back the person's latest pick, or the whole choice; how the person stands then, with the question it was
    about where two pictures are asked about."""
    person, body = request.match_info["person"], await read(request, Asked)

    def work() -> Any:
        store, before = folders.taste_store(), _latest(person)
        undone = store.undo(store.person(person).id, body.request)
        return _changed(person, body, before ^ _latest(person), undone if body.of == 2 else None)

    return await answer(work)


async def skip_left_over(request: web.Request) -> web.Response:
    """Skip all open questions that would not be asked; how the person stands then."""
    person, body = request.match_info["person"], await read(request, Asked)

    def work() -> Any:
        store = folders.taste_store()
        left_over = interviews.interview_of(person).left_over(person)
        store.skip(store.person(person).id, left_over)
        return _changed(person, body, left_over[:LONGEST_PAGE])

    return await answer(work)


# Pictures


async def picture(request: web.Request) -> web.StreamResponse:
    """A picture by its sha256."""
    return await answers.picture(lambda: Picture(folders.taste_store().picture(request.match_info["digest"])))


async def thumbnail(request: web.Request) -> web.StreamResponse:
    """A small picture by the sha256 of the large one."""
    return await file(lambda: folders.taste_store().thumbnail(request.match_info["digest"]), "image/jpeg")


# What the above are made of


def _theirs(person: str, number: int) -> Candidate:
    store = folders.taste_store()
    candidate = store.candidate(number)
    if candidate.person != store.person(person).id:
        raise MissingError(f"Question {number} was not asked of this person: reload the page.")
    return candidate


def _latest(person: str) -> set[tuple[int, int | None]]:
    """The latest answers, more than one choice may make, by question and pick."""
    return {(one.id, one.pick) for one in folders.taste_store().history(person, limit=2 * MOST_CHOICES)}


def _changed(
    person: str,
    request: Body,
    changed: Iterable[int | tuple[int, int | None]] = (),
    asked: Candidate | None = None,
) -> dict[str, Any]:
    """How the person stands after a request that changed it, and how the questions that it `changed` stand."""
    announce(person, request.request)
    of = request.of if isinstance(request, Asked) else 2
    store = folders.taste_store()
    numbers = sorted({one if isinstance(one, int) else one[0] for one in changed})
    return standing(person, of, asked) | {"changed": [shown(store.candidate(number)) for number in numbers]}


def _number(text: str) -> int:
    if len(text) > 19 or not text.isascii() or not text.isdecimal() or not 0 < int(text) <= LARGEST_NUMBER:
        raise refused(web.HTTPNotFound, "Expected a number.")
    return int(text)
