"""What the Taste panel may send: a model for every body, which is its JSON schema and its check."""

from __future__ import annotations

import json
from typing import Annotated, Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

LARGEST_BODY = 16384
"""Bytes; a pick has about a hundred, a choice of nine a prompt beside."""
LARGEST_NUMBER = 2**62
"""Of a question or a pick: less than SQLite's largest."""

LONGEST_PICK = 120.0
"""Seconds that count as spent on an answer of a blind test: beyond, somebody has left the room."""

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=80)]


class Body(BaseModel):
    """`request` is drawn by the sender, so that what the network repeats counts once."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request: Annotated[str, Field(min_length=1, max_length=100)]


class Named(Body):
    """A person's name."""

    name: Name


class Asked(Body):
    """What may change what is asked next: the best of `of` pictures."""

    of: Literal[2, 4, 9] = 2


class Pick(Asked):
    """An answer to a question."""

    candidate: Annotated[int, Field(gt=0, le=LARGEST_NUMBER)]
    verdict: Literal["first", "second", "tie", "skip"]


class TestPick(Body):
    """An answer to a question of a blind test, and how long its pictures were looked at."""

    question: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    verdict: Literal["first", "second", "tie", "skip"]
    seconds: Annotated[float, Field(ge=0, le=LONGEST_PICK)]


class Choice(Asked):
    """An answer to a grid: which of the pictures of a prompt is the best, by sha256; null for a skip."""

    prompt: Annotated[str, Field(max_length=LARGEST_BODY)]
    pictures: Annotated[list[Digest], Field(min_length=2, max_length=16)]
    best: Digest | None


class HalfLife(Body):
    """After how many newer picks a pick counts half; null for never."""

    picks: Annotated[float, Field(ge=1, le=10_000)] | None


class Encoder(Body):
    """A taste encoder by the name of its folder."""

    encoder: Annotated[str, Field(min_length=1, max_length=255)]


class BrandGuide(Body):
    """A brand guide by the name that the nodes' list shows; null for none."""

    guide: Annotated[str, Field(min_length=1, max_length=1000)] | None


class Import(Body):
    """A preference set by the name that `GET /ppd/sets` lists."""

    preference_set: Annotated[str, Field(min_length=1, max_length=1000)]
    skip_bad: bool = False
    """Leave out what cannot be used, instead of taking nothing over."""


class StudyQuestions(Body):
    """A set of studies by the name that `GET /ppd/studies` lists."""

    studies: Annotated[str, Field(min_length=1, max_length=1000)]


class Rating(Body):
    """What somebody says of a finished picture, by its path inside one of ComfyUI's folders; null takes it back."""

    folder: Literal["output", "input", "temp"]
    picture: Annotated[str, Field(min_length=1, max_length=1000)]
    rating: Literal["keep", "not"] | None


class RestRating(Rating):
    """The same of all others of its prompt in a folder that `GET /ppd/library/folders` lists."""

    within: Annotated[str, Field(min_length=1, max_length=1000)]
    rating: Literal["keep", "not"]


class Code(Body):
    """A taste code, and what its file is to be called."""

    code: Annotated[str, Field(min_length=1, max_length=3000)]
    name: Annotated[str, Field(max_length=80)] = ""


class Blend(Body):
    """Two choices of the nodes' list of people and taste files, how much the second counts, and a name."""

    first: Annotated[str, Field(min_length=1, max_length=1000)]
    second: Annotated[str, Field(min_length=1, max_length=1000)]
    weight: Annotated[float, Field(ge=0, le=1)]
    name: Annotated[str, Field(max_length=80)] = ""


class GoBack(Body):
    """The day that is to be the last, and the name under which the present picks are kept."""

    day: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    copy_name: Name


Model = TypeVar("Model", bound=Body)


async def read(request: web.Request, model: type[Model]) -> Model:
    """The request's body; anything but a small JSON object of `model`'s fields raises HTTPBadRequest saying so."""
    if request.content_type != "application/json" or not 0 < (request.content_length or 0) <= LARGEST_BODY:
        raise refused(web.HTTPBadRequest, f"Expected a body of JSON and at most {LARGEST_BODY} bytes.")
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        message = f"Expected a {model.__name__} body: {where}: {first['msg']}."
        if first["type"] == "string_too_long":
            message = f"Expected a {where} of at most {first['ctx']['max_length']} letters: shorten it."
        raise refused(web.HTTPBadRequest, message) from None


def refused(kind: type[web.HTTPError], message: str) -> web.HTTPError:
    """An answer of a kind, such as 400, with one sentence."""
    return kind(text=json.dumps({"error": message}), content_type="application/json")
