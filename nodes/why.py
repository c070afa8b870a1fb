"""Why something is said of somebody, for the tab Taste: their picks behind each look, and what another answer would
have changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from aiohttp import web

from ..ppd.encoders.encoder import PosteriorEncoder, Told
from ..ppd.encoders.looks import Looks
from ..ppd.explain.influence import answers_of
from ..ppd.explain.report import Change, share, what_if
from ..ppd.pairs import PreferencePair
from ..ppd.store import MissingError
from . import folders, interviews
from .answers import answer
from .explaining import belongs_to_no_moment, explanation, looks_of, readable
from .taste_pairs import pairs_of


def register(routes: web.RouteTableDef) -> None:
    """Add these routes to ComfyUI's."""
    routes.get("/ppd/people/{person}/why")(why)
    routes.get("/ppd/people/{person}/what_if/{pair}")(other_way)


async def why(request: web.Request) -> web.Response:
    """Each look with its causes, which are pairs, the course over picks and days, and what has changed."""
    person = request.match_info["person"]

    def work() -> Any:
        encoder, looks, pairs, told = _told(person)
        found, words = explanation(encoder, looks, pairs, told), _japanese(looks)
        days = _days(pairs, told)
        undated = found.answers - found.points[-1]
        return {
            "answers": found.answers,
            "half_life": folders.taste_store().person(person).half_life,
            "points": [{"answers": count, "day": days[undated + count - 1] if count else ""} for count in found.points],
            "looks": [
                {
                    **asdict(one.statement),
                    "japanese": words.get(one.statement.name),
                    "lean": one.lean,
                    "share": [share(one.least), share(one.lean), share(one.most)],
                    "of_people": share(one.of_people),
                    "causes": [_cause(pairs[cause.row], cause.adds, share(cause.without)) for cause in one.causes],
                    "course": [[share(value) for value in point] for point in one.course],
                }
                for one in found.looks
            ],
            "is_early": found.is_early,
            "drift": [{**asdict(one), "japanese": words.get(one.look), "day": days[one.since]} for one in found.drift],
        }

    return await answer(work, takes_long=True)


async def other_way(request: web.Request) -> web.Response:
    """What would be otherwise had the rejected picture of a pair been chosen."""
    person, pair = request.match_info["person"], request.match_info["pair"]

    def work() -> Any:
        encoder, looks, pairs, told = _told(person)
        rows = [row for row, one in enumerate(pairs) if one.id == pair]
        if not rows:
            raise MissingError("This answer is not among the person's any more: open the page anew.")
        found, words = what_if(encoder.prior, looks, told, rows[0]), _japanese(looks)
        return {"decided": found.decided, "said": [_change(one, words) for one in found.said]}

    return await answer(work, takes_long=True)


# What the above are made of


def _told(person: str) -> tuple[PosteriorEncoder, Looks, list[PreferencePair], Told]:
    encoder = interviews.interview_of(person).encoder
    looks = looks_of(folders.taste_store().person(person).encoder, encoder.looks)
    return encoder, looks, *readable(encoder, pairs_of(person, skipped=[]), [])


def _days(pairs: Sequence[PreferencePair], told: Told) -> list[str]:
    """The day of each answer, "" where none is known."""
    first = {int(answer): (pair.created or "")[:10] for pair, answer in zip(pairs, answers_of(told), strict=True)}
    return [first[answer] for answer in sorted(first)]


def _japanese(looks: Looks) -> dict[str, tuple[str, str]]:
    return dict(zip(looks.names, looks.japanese, strict=False))


def _cause(pair: PreferencePair, adds: float, without: int) -> dict[str, Any]:
    """What a browser shows of it; what a loved picture was set against is none of the person's pictures."""
    is_loved = belongs_to_no_moment(pair)
    return {
        "pair": pair.id,
        "prompt": pair.prompt,
        "day": (pair.created or "")[:10],
        "chosen": pair.chosen.digest,
        "rejected": None if is_loved else pair.rejected.digest,
        "is_tie": pair.tie,
        "adds": adds,
        "without": without,
    }


def _change(one: Change, words: dict[str, tuple[str, str]]) -> dict[str, Any]:
    sides = ((one.before, one.lean_before), (one.after, one.lean_after))
    before, after = ({"state": said.state, "prefers": said.prefers, "share": share(lean)} for said, lean in sides)
    name = one.before.name
    words_of = {"name": name, "low": one.before.low, "high": one.before.high, "japanese": words.get(name)}
    return {**words_of, "before": before, "after": after}
