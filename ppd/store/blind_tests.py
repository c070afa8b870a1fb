"""Blind tests: questions whose answers judge models and never make a taste.

A pick of a test has the purpose `test`: it lies in a table of its own, apart from the picks of the purpose `taste`, so
that nothing which reads a person's picks can take it for one of theirs. As those, they are only ever added.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from ..blind_questions import BlindQuestion, Matchup, Trial, design, left_to_ask
from ..pairs import folded
from .candidates import VERDICTS
from .errors import LearnedError, MissingError, StoreError, damaged
from .people import now
from .versions import Versions

LONGEST_ARM = 40
"""Characters of an arm's name."""


@dataclass(frozen=True)
class BlindTest:
    """A test of a person: its arms' names, its questions in order, and `notes` (how many picks the taste had)."""

    id: str
    person: str
    arms: tuple[str, ...]
    notes: dict[str, Any]
    created: str
    finished: str | None
    """When the result was shown; nothing can be answered after that, since nothing is blind."""
    spent: float
    """Seconds, of answers that were taken back too."""
    trials: tuple[Trial, ...]

    @property
    def answered(self) -> int:
        """Questions with an answer."""
        return sum(one.verdict is not None for one in self.trials)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to ask: decided, or all is answered."""
        return not left_to_ask(self.trials)


class BlindTests(Versions):
    """The blind tests of all people of a database."""

    def add_test(
        self,
        person: str,
        arms: Sequence[str],
        matchups: Sequence[Matchup],
        most: int,
        notes: dict[str, Any] | None = None,
        draw: random.Random | None = None,
    ) -> tuple[str, bool]:
        """File a test of at most `most` questions and their repeats; its id, and whether it is new: the same pictures
        are one test, whatever the arms are called and whichever comes first.

        Refused where a picture or prompt of it has made the person's taste, since that would be asked of its own
        lesson.
        """
        _check_arms(arms)
        painted = [(matchup.prompt, [picture.digest for picture in matchup.pictures]) for matchup in matchups]
        for picture in (picture for matchup in matchups for picture in matchup.pictures):
            picture.check()
        questions = design(matchups, most, draw or random.SystemRandom())
        if not questions:
            raise StoreError(
                "All ways have painted the same pictures, so there is nothing to ask: is the strength 0, or has the "
                "person not picked yet?"
            )
        shown = sorted(sorted(digests) for _, digests in painted)
        key = hashlib.sha256(json.dumps(shown).encode()).hexdigest()
        while True:
            known = self._known_test(person, key)
            if known is not None:
                return known, False
            self.check_apart(person, painted)
            try:
                # Hundreds of pictures are written with the lock free for others between them
                for picture in {picture.digest: picture for one in questions for picture in one.pictures}.values():
                    if not self.pictures.has(picture.digest):
                        with self.database.writing():
                            self.pictures.keep(picture)
                filed = self._file_test(person, arms, key, questions, painted, notes or {})
            except (ValueError, OSError):
                self._erase_orphans()
                raise
            if filed is not None:
                return filed

    def _known_test(self, person: str, key: str) -> str | None:
        """The id of the person's test of some pictures."""
        self.person(person)
        known = self.database.read("SELECT id FROM tests WHERE person = ? AND key = ?", (person, key), (str,))
        return str(known[0][0]) if known else None

    def _file_test(
        self,
        person: str,
        arms: Sequence[str],
        key: str,
        questions: Sequence[BlindQuestion],
        painted: Sequence[tuple[str, Sequence[str]]],
        notes: dict[str, Any],
    ) -> tuple[str, bool] | None:
        """Write the rows, whose pictures are kept, in one transaction. None where a picture was erased meanwhile, since
        nothing named it."""
        with self.database.writing() as database:
            known = self._known_test(person, key)
            if known is not None:  # filed by another program meanwhile
                return known, False
            self.check_apart(person, painted)
            if not all(self.pictures.has(picture.digest) for one in questions for picture in one.pictures):
                return None
            test = uuid4().hex
            database.execute(
                "INSERT INTO tests (id, person, key, arms, notes, created) VALUES (?, ?, ?, ?, ?, ?)",
                (test, person, key, json.dumps(list(arms)), json.dumps(notes), now()),
            )
            for place, one in enumerate(questions):
                digests = [picture.digest for picture in one.pictures]
                database.execute(
                    "INSERT INTO trials (id, test, place, prompt, first, second, first_arm, second_arm, repeats)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (uuid4().hex, test, place, one.prompt, *digests, *one.arms, one.repeats),
                )
        return test, True

    def check_apart(self, person: str, asked: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Refuse prompts, each with the sha256 of its pictures, that have made the person's taste: LearnedError, by the
        prompt's place, since a log keeps what is said."""
        rows = self.database.read(
            "SELECT prompt, digest FROM (SELECT person, prompt, first AS digest FROM candidates WHERE verdict != 'skip'"
            " UNION SELECT person, prompt, second FROM candidates WHERE verdict != 'skip'"
            " UNION SELECT person, prompt, digest FROM pictures WHERE rating IS NOT NULL) WHERE person = ?",
            (person,),
            (str, str),
        )
        prompts, digests = {folded(prompt) for prompt, _ in rows}, {digest for _, digest in rows}
        places: dict[str, int] = {}
        for prompt, pictures in asked:
            place = places.setdefault(prompt, len(places) + 1)
            if folded(prompt) in prompts:
                raise LearnedError(
                    f"Prompt {place} was answered when this taste was learned, so a test by it would say too much: "
                    "test by other prompts.",
                    prompt,
                )
            if digests & set(pictures):
                raise LearnedError(
                    f"A picture of prompt {place} was answered when this taste was learned, so a test by it would say "
                    "too much: paint it by another seed.",
                    prompt,
                )

    def test(self, test: str) -> BlindTest:
        """The test of an id."""
        found = self._tests("WHERE id = ?", (test,))
        if not found:
            raise MissingError("This blind test is not there any more: it may have been deleted.")
        return found[0]

    def tests(self, person: str) -> list[BlindTest]:
        """The person's tests, the newest first."""
        return self._tests("WHERE person = ? ORDER BY rowid DESC", (self.person(person).id,))

    def trial_picture(self, trial: str, side: int) -> str:
        """The sha256 of a question's picture, 0 the first and 1 the second."""
        found = self.database.read("SELECT first, second FROM trials WHERE id = ?", (trial,), (str, str))
        if not found:
            raise MissingError("This question is not there any more: its blind test may have been deleted.")
        return str(found[0][side])

    def answer_trial(self, test: str, trial: str, verdict: str, seconds: float, request: str) -> None:
        """What the person says of a test's question. A request that comes twice counts once, and so does an answer to
        a question that has one: it must be taken back first."""
        if verdict not in VERDICTS:
            raise StoreError(f"The verdict is {verdict!r}: use one of {', '.join(VERDICTS)}.")
        with self.database.writing() as database:
            if self.database.read("SELECT id FROM test_picks WHERE request = ?", (request,)):
                return
            asked = {one.id: one for one in self._running(test).trials}
            if trial not in asked:
                raise MissingError("This question is not of this blind test: reload the page.")
            if asked[trial].verdict is None:
                database.execute(
                    "INSERT INTO test_picks (trial, verdict, seconds, created, request) VALUES (?, ?, ?, ?, ?)",
                    (trial, verdict, seconds, now(), request),
                )

    def undo_trial(self, test: str, request: str) -> None:
        """Take back the latest answer of a test, if there is one. A request that comes twice counts once."""
        with self.database.writing() as database:
            if self.database.read("SELECT pick FROM test_undos WHERE request = ?", (request,)):
                return
            latest = max((one.pick for one in self._running(test).trials), default=0)
            if latest:
                database.execute("INSERT INTO test_undos VALUES (?, ?, ?)", (latest, now(), request))

    def finish_test(self, test: str) -> BlindTest:
        """End a test, so that its result can be shown; one without an answer has none."""
        with self.database.writing() as database:
            found = self.test(test)
            if not any(one.verdict not in (None, "skip") for one in found.trials):
                raise StoreError("Nothing has been answered yet, so there is no result: answer some questions first.")
            if not found.finished:
                database.execute("UPDATE tests SET finished = ? WHERE id = ?", (now(), test))
        return self.test(test)

    def delete_test(self, test: str) -> bool:
        """Erase a test with its answers, and its pictures that nothing else has; whether nothing at all is left."""
        with self.database.writing() as database:
            self.test(test)
            database.execute("DELETE FROM tests WHERE id = ?", (test,))
        self._erase_orphans()
        return self.database.tidy()

    def _running(self, test: str) -> BlindTest:
        found = self.test(test)
        if found.finished:
            raise StoreError("The result of this blind test has been shown, so it is not blind any more: make another.")
        return found

    def _tests(self, condition: str, values: Sequence[Any]) -> list[BlindTest]:
        rows = self.database.read(
            "SELECT id, person, arms, notes, created, finished FROM tests " + condition,
            values,
            (str, str, str, str, str, str | None),
        )
        try:
            return [
                BlindTest(
                    one,
                    person,
                    tuple(json.loads(arms)),
                    dict(json.loads(notes)),
                    created,
                    finished,
                    self._spent(one),
                    self._trials(one),
                )
                for one, person, arms, notes, created, finished in rows
            ]
        except (ValueError, TypeError):
            raise damaged(self.database.path) from None

    def _trials(self, test: str) -> tuple[Trial, ...]:
        rows = self.database.read(
            "SELECT trials.id, place, prompt, first, second, first_arm, second_arm, repeats, test_picks.verdict,"
            " seconds, test_picks.id FROM trials LEFT JOIN test_picks ON test_picks.id = (SELECT max(id) FROM"
            " test_picks WHERE trial = trials.id AND id NOT IN (SELECT pick FROM test_undos))"
            " WHERE test = ? ORDER BY place",
            (test,),
            (str, int, str, str, str, int, int, int | None, str | None, float | None, int | None),
        )
        return tuple(
            Trial(one, place, prompt, (first, second), (left, right), repeats, verdict, seconds or 0.0, pick or 0)
            for one, place, prompt, first, second, left, right, repeats, verdict, seconds, pick in rows
        )

    def _spent(self, test: str) -> float:
        rows = self.database.read(
            "SELECT total(seconds) FROM test_picks JOIN trials ON trials.id = trial WHERE test = ?", (test,), (float,)
        )
        return float(rows[0][0])


def _check_arms(arms: Sequence[str]) -> None:
    """Refuses by place, never by name: a log keeps what is said, and the person has yet to answer."""
    names = {folded(arm) for arm in arms}
    if not 2 <= len(arms) <= 3 or len(names) < len(arms):
        raise StoreError(
            f"The test compares {len(arms)} ways that have {len(names)} different names: give two or three, each with "
            "a name of its own."
        )
    for place, arm in enumerate(arms, 1):
        if not 0 < len(arm.strip()) <= LONGEST_ARM:
            raise StoreError(f"The name of way {place} has {len(arm)} characters: give 1 to {LONGEST_ARM}.")
