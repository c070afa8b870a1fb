"""A blind test as the browser has it: a question at a time, and nothing that tells which picture is whose.

Questions have random ids, pictures are asked for by these and a side, and are encoded anew, so that neither an address
nor a file says how it was painted. Arms are named once the result is shown, after which nothing can be answered.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths
import torch
from aiohttp import web

from ..ppd.blind_questions import Trial, error_of, left_to_ask, outcomes, pairs_of
from ..ppd.evaluation import report
from ..ppd.evaluation.blind import by_look, score
from ..ppd.pictures import Picture
from ..ppd.sequential import decided
from ..ppd.store import BlindTest, MissingError
from . import answers, folders, interviews
from .announce import announce
from .answers import answer, file
from .bodies import Body, TestPick, read
from .forgetting import erases, forgets

SIDES = ("left", "right")
FILES = {
    report.PAGE_FILE: "text/html; charset=utf-8",
    report.JSON_FILE: "application/json",
    report.SHEET_FILE: "image/png",
}
FOLDER = "blind tests"
"""In ComfyUI's output folder, with a folder for each report."""


def register(routes: web.RouteTableDef) -> None:
    """Add these routes to ComfyUI's."""
    test = "/ppd/tests/{test}"
    routes.get("/ppd/people/{person}/tests")(tests)
    routes.get(test)(standing)
    routes.delete(test)(delete)
    routes.post(f"{test}/picks")(pick)
    routes.post(f"{test}/undo")(undo)
    routes.post(f"{test}/finish")(finish)
    routes.get(f"{test}/questions/{{trial}}/{{side}}")(picture)
    routes.get(f"{test}/report/{{file}}")(report_file)


async def tests(request: web.Request) -> web.Response:
    """The person's tests, the newest first."""
    person = request.match_info["person"]
    return await answer(lambda: [_standing(one) for one in folders.taste_store().tests(person)])


async def standing(request: web.Request) -> web.Response:
    """How a test stands: the question, or that it is over, or its result."""
    return await answer(lambda: _standing(_test(request)))


async def pick(request: web.Request) -> web.Response:
    """Answer a question; how the test stands then."""
    body = await read(request, TestPick)

    def work() -> Any:
        test = _test(request)
        folders.taste_store().answer_trial(test.id, body.question, body.verdict, body.seconds, body.request)
        return _standing(_test(request))

    return await answer(work)


async def undo(request: web.Request) -> web.Response:
    """Take the latest answer back; how the test stands then."""
    body = await read(request, Body)

    def work() -> Any:
        folders.taste_store().undo_trial(_test(request).id, body.request)
        return _standing(_test(request))

    return await answer(work)


async def finish(request: web.Request) -> web.Response:
    """End the test and write its report; the result."""
    body = await read(request, Body)

    def work() -> Any:
        test = folders.taste_store().finish_test(_test(request).id)
        _report(test)
        announce(test.person, body.request)
        return _standing(test)

    return await answer(work, takes_long=True)


async def delete(request: web.Request) -> web.Response:
    """Erase a test, its answers and its report."""

    def work() -> Any:
        test = _test(request)
        reports = f"*{test.person[:8]}-{test.id[:8]}"
        _forget_reports(reports)  # before the rows: what cannot be deleted now is asked for again
        folders.taste_store().delete_test(test.id)
        _forget_reports(reports)  # and again, for one who looked at the result meanwhile
        announce(test.person)
        return {}

    return await answer(work)


async def picture(request: web.Request) -> web.StreamResponse:
    """A question's picture, encoded anew: nothing but what is seen is in it."""

    def work() -> Picture:
        side = request.match_info["side"]
        if side not in SIDES:
            raise MissingError("A question has a left and a right picture: reload the page.")
        store = folders.taste_store()
        digest = store.trial_picture(request.match_info["trial"], SIDES.index(side))
        return Picture.from_image(Picture(store.picture(digest)).open())

    return await answers.picture(work)


async def report_file(request: web.Request) -> web.StreamResponse:
    """The page, the figures or the sheet of a finished test."""
    name = request.match_info["file"]

    def work() -> Path:
        test = _test(request)
        if not test.finished or name not in FILES:
            raise MissingError("There is no such report: a test has one once its result was shown.")
        return _report(test) / name

    return await file(work, FILES.get(name, ""))


@forgets
@erases
def forget(person: str) -> None:
    """Erase the reports of the person's tests; after the rows again, for one who looked at a result meanwhile."""
    _forget_reports(f"*{person[:8]}-*")


def _test(request: web.Request) -> BlindTest:
    return folders.taste_store().test(request.match_info["test"])


def _standing(test: BlindTest) -> dict[str, Any]:
    """Of a test that is not finished no name of an arm, and of a question nothing but its id and prompt."""
    left = left_to_ask(test.trials)
    found: dict[str, Any] = {
        "id": test.id,
        "created": test.created,
        "answered": test.answered,
        "most": len(test.trials),
        "is_over": not left,
        "is_decided": _is_decided(test.trials),
        "question": None if test.finished or not left else {"id": left[0].id, "prompt": left[0].prompt},
        "result": None,
    }
    if test.finished:
        figures = score(test.arms, test.trials, test.spent)
        kept = ("pairs", "consistency", "answers", "seconds_per_pick", "minutes")
        found["result"] = {name: figures[name] for name in kept}
        found["result"]["folder"] = f"output/{FOLDER}/{_folder(test).name}"
    return found


def _is_decided(trials: Sequence[Trial]) -> bool:
    alpha = error_of(trials)
    return all(decided(outcomes(trials, pair), alpha) for pair in pairs_of(trials))


def _folder(test: BlindTest) -> Path:
    """Named so that what is of a person is found without reading it."""
    root = Path(folder_paths.get_output_directory()) / FOLDER
    return root / f"{str(test.finished)[:10]} {test.person[:8]}-{test.id[:8]}"


def _report(test: BlindTest) -> Path:
    """The folder of a finished test's report, written where it is not there."""
    folder, store = _folder(test), folders.taste_store()
    if not all((folder / name).is_file() for name in FILES):
        figures = report.figures_of(test, _looks(test))
        report.write_report(folder, test, figures, lambda digest: Picture(store.picture(digest)))
    return folder


def _looks(test: BlindTest) -> list[dict[str, Any]]:
    """What the answers say of looks; nothing where the person's taste encoder names none or cannot look."""
    store = folders.taste_store()
    trials = [one for one in test.trials if one.repeats is None and one.winner() is not None]
    try:
        encoder = interviews.interview_of(test.person).encoder
        if encoder.looks is None or not trials:
            return []
        sides = [
            encoder.features.picture_features([Picture(store.picture(one.pictures[side])) for one in trials])
            for side in (0, 1)
        ]
    except (ValueError, OSError, RuntimeError, ImportError):  # the report says all the rest
        return []
    with torch.inference_mode():
        amounts = encoder.looks.amounts(encoder.prior.differences(*sides) * encoder.prior.noise)
    names = zip(encoder.looks.names, encoder.looks.low, encoder.looks.high, strict=True)
    return by_look(list(names), amounts.numpy(), trials)


def _forget_reports(pattern: str) -> None:
    for folder in (Path(folder_paths.get_output_directory()) / FOLDER).glob(pattern):
        shutil.rmtree(folder)
