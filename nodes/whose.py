"""Whose taste: a choice of a person or of a taste file, as a user embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..ppd.files import file_digest
from ..ppd.messages import listed, quoted
from ..ppd.pairs import counted
from ..ppd.pictures import PreferenceError
from ..ppd.store import Person
from ..ppd.store.people import DEFAULT_ENCODER
from ..ppd.user_embedding import UserEmbedding
from . import folders, guides, people
from .encoders import encoder_digest, load_encoder, reader_of
from .taste_pairs import ALL, pairs_of

TASTE = "taste: "
"""What a choice begins with that is a file of models/user_embeddings and nobody of the taste store."""

FEW = 4
"""Picks below which little is known of somebody."""


@dataclass(frozen=True)
class Taste:
    """Whose pictures are meant: their embedding, how reports call them, and their taste encoder's name, None where it
    is not here."""

    name: str
    embedding: UserEmbedding
    encoder: str | None
    person: Person | None = None
    notes: tuple[str, ...] = ()
    """What else reports should say."""
    first_answers: int = ALL
    """How many of the person's first answers it is read from."""

    @property
    def told(self) -> str:
        """Who it is and how much is known of them, for reports."""
        if self.embedding.pairs:
            return f"{self.name} by {counted(self.embedding.pairs, 'pick')}"
        return "the average person"

    @property
    def advice(self) -> str:
        """What to do where little is known, or that less is asked for; nothing where enough is."""
        if self.first_answers != ALL:
            return f" It counts the first {counted(self.first_answers, 'answer')} only."
        if not self.embedding.pairs:
            return " No picks are known yet: answer questions in the tab Taste."
        return " Weak as yet: pick more." if self.embedding.pairs < FEW else ""


def person_input(tooltip: str) -> io.Combo.Input:
    """The choice of somebody, or of a taste file."""
    return io.Combo.Input(
        "person",
        options=choices(),
        default=people.TAB,
        optional=True,
        tooltip=tooltip,
        extra_dict={people.MARK: ""},
    )


def first_answers_input() -> io.Int.Input:
    """How many of a person's first answers count, by default all."""
    return io.Int.Input(
        "first_answers",
        default=ALL,
        min=ALL,
        max=100_000,
        optional=True,
        advanced=True,
        tooltip="Count only so many of a person's first answers, to see what the later ones changed. 0 is the average "
        "person; -1 counts all, and the moodboard.",
    )


def refuse_first_answers(choice: str, first_answers: int) -> None:
    """What a taste file or a set holds has no first answers."""
    if first_answers != ALL:
        raise ValueError(
            f"first_answers is {first_answers}, but {quoted(choice)} is no person of the tab Taste: choose one, or set "
            f"first_answers to {ALL}."
        )


def choices() -> list[str]:
    """Everybody in the taste store, and the taste files."""
    return [*people.choices(), *(TASTE + name for name in folder_paths.get_filename_list("user_embeddings"))]


def check(choice: str | None) -> bool | str:
    """For `validate_inputs`: ComfyUI's own check would refuse whoever is called by name. None comes from a node."""
    try:
        if choice is not None and choice.startswith(TASTE):
            taste_file(choice.removeprefix(TASTE))
        elif choice is not None:
            people.find(choice)
    except ValueError as error:
        return str(error)
    return True


def fingerprint(choice: str | None) -> str:
    """Changes when the person's picks do or how they are read, or when the file does. None comes from a node, and is
    not known before that has run: never the same."""
    if choice is None:
        return uuid4().hex
    if choice.startswith(TASTE):
        return file_digest(taste_file(choice.removeprefix(TASTE)))
    person = people.find(choice)
    if person is None:
        return encoder_digest(DEFAULT_ENCODER)
    return f"{people.fingerprint(person)} {encoder_digest(person.encoder)}"


def read(choice: str, prompt: Mapping[str, Any] | None, first_answers: int = ALL) -> Taste:
    """The taste of a choice; of somebody without picks the average person's. Who is bound to a brand guide is held to
    it; pictures that are lost or broken are left out; and the notes say so."""
    if choice.startswith(TASTE):
        refuse_first_answers(choice, first_answers)
        return of_embedding(
            UserEmbedding.load(taste_file(choice.removeprefix(TASTE))),
            choice.removeprefix(TASTE).removesuffix(".safetensors"),
        )
    choice = people.called(choice)
    person = people.find(choice)
    if person is None:
        people.make_sure(choice, prompt)
    encoder = DEFAULT_ENCODER if person is None else person.encoder
    skipped: list[PreferenceError] = []
    pairs = [] if person is None else pairs_of(person.id, skipped, first_answers)
    reader = load_encoder(encoder)
    embedding = reader.encode(pairs, on_bad="skip", skipped=skipped, progress=progress(2 * len(pairs)))
    embedding, notes = guides.held_back(person, embedding, reader)
    notes += (f"Left out {len(skipped)}:", *listed(skipped)) if skipped else ()
    return Taste(choice if person is None else person.name, embedding, encoder, person, notes, first_answers)


def of_embedding(embedding: UserEmbedding, name: str = "The person") -> Taste:
    """The taste of an embedding from a file, a code or a node; ValueError where its encoder makes no such ones."""
    return Taste(name, embedding, reader_of(embedding))


def progress(total: int) -> Callable[[int, int], None]:
    """Shows on the running node how far a reading of `total` pictures is, and ends it where the run is interrupted."""
    bar = comfy.utils.ProgressBar(max(1, total))

    def told(done: int, _: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return told


def taste_file(name: str) -> Path:
    """A file of models/user_embeddings by the name that the list shows; nothing outside of it."""
    if name not in folder_paths.get_filename_list("user_embeddings"):
        raise ValueError(
            f"There is no taste file {quoted(name)} in models/user_embeddings: choose another (R renews the list)."
        )
    return folders.model_file("user_embeddings", name)
