"""What a person has said, as preference pairs: going out to whoever learns from them, into files, and in from files."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import merge
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..messages import quoted
from ..moodboard import KEPT
from ..pairs import PreferencePair, read_pairs, write_pairs
from ..pictures import Picture, PreferenceError
from .erasing import Erasing
from .errors import MissingError, StoreError
from .people import now


@dataclass(frozen=True)
class Answer:
    """One thing that a person has said: a pick, or the best of several as one choice. Pictures are sha256 of their
    files, and each rejected one comes with the id of its pair. With `tie` the order means nothing."""

    prompt: str
    chosen: str
    rejected: tuple[tuple[str, str], ...]
    created: str = ""
    tie: bool = False
    choice: str | None = None

    def pictures(self) -> list[str]:
        """The hashes of all pictures."""
        return [self.chosen, *(digest for _, digest in self.rejected)]

    def said(self) -> tuple[str, ...]:
        """What tells it from another answer, whatever its pairs are called."""
        rejected = sorted(digest for _, digest in self.rejected)
        if self.tie:
            return ("tie", self.prompt, *sorted([self.chosen, *rejected]))
        return ("best", self.prompt, self.chosen, *rejected)


class Pairs(Erasing):
    """All people's preference pairs."""

    def answers(self, person: str) -> list[Answer]:
        """All that stands of what the person has said, the oldest first: picks and choices, and each picture that they
        keep as the best among those of its prompt that are not for them.

        One picture twice is no pair, whatever was said of it; pictures whose prompt is not known have none in common.
        """
        return list(merge(self._picked(person), self._kept_against(person), key=lambda answer: answer.created))

    def pairs(
        self, person: str, skipped: list[PreferenceError] | None = None, first: int | None = None
    ) -> list[PreferencePair]:
        """The person's preference pairs in the order of what they have said, faded by the person's half-life; with
        `first` those of so many first answers, as they were when no other had been given.

        Pairs of one choice follow each other. A pair whose picture is lost raises PreferenceError; with `skipped` it is
        left out and its error appended there.
        """
        answers, half_life = self.answers(person)[:first], self.person(person).half_life
        pairs = []
        for answer, weight in zip(answers, fade(len(answers), half_life), strict=True):
            for pair, rejected in answer.rejected:
                try:
                    pictures = [Picture(self.pictures.path(digest)) for digest in (answer.chosen, rejected)]
                except MissingError as error:
                    if skipped is None:
                        raise PreferenceError(f"Pair {pair!r}: {error}", pair) from error
                    skipped.append(PreferenceError(f"Pair {pair!r}: {error}", pair))
                    continue
                pairs.append(
                    PreferencePair(
                        prompt=answer.prompt,
                        chosen=pictures[0],
                        rejected=pictures[1],
                        id=pair,
                        created=answer.created,
                        tie=answer.tie,
                        weight=weight,
                        choice=answer.choice,
                    )
                )
        return pairs

    def fingerprint(self, person: str) -> str:
        """Changes when the person's pairs or moodboard do, how they fade, which taste encoder reads them, or which
        guide binds them."""
        who = self.person(person)
        picks = self.database.read(
            "SELECT pick, candidates.verdict, choice FROM candidates JOIN picks ON picks.id = pick"
            " WHERE person = ? ORDER BY pick",
            (person,),
        )
        ratings = self.database.read(
            "SELECT pictures.id, pictures.rating, max(ratings.id) FROM pictures JOIN ratings"
            " ON ratings.picture = pictures.id WHERE person = ? AND pictures.rating IS NOT NULL GROUP BY pictures.id",
            (person,),
        )
        settings = who.half_life, who.encoder, who.guide, who.guide_digest
        return hashlib.sha256(repr((person, *settings, picks, ratings)).encode()).hexdigest()

    def export(self, person: str, folder: Path | str) -> None:
        """Write the person's pairs as a preference set; refused where there are none, for that could not be read."""
        pairs = self.pairs(person)
        if not pairs:
            raise StoreError(
                f"There is nothing to export: {self.person(person).name} has not preferred any picture yet. Answer "
                "questions first."
            )
        write_pairs(folder, pairs)

    def add_pairs(
        self, person: str, path: Path | str, skip_bad: bool = False, skipped: list[PreferenceError] | None = None
    ) -> int:
        """Take over a preference set's pairs as picks; how many answers are new, a choice being one. What the person
        has said already, be it of this set or of their own export, counts once.

        Every pair is checked before the first is written, so that a bad one leaves nothing; with `skip_bad` bad ones
        are left out and their errors appended to `skipped`, but where all are bad the first is raised.
        """
        self.person(person)
        while True:
            bad: list[PreferenceError] = []
            try:
                # Thousands of pictures are decoded and copied with the lock free for others between them
                read = _answers_of_one(read_pairs(path, skip_bad=skip_bad, skipped=bad), bad if skip_bad else None)
                answers = _grouped(self._copied(pair) for pair in read)
                if bad and not answers:
                    raise PreferenceError(f"No pair of {Path(path).name} can be taken over. {bad[0]}", bad[0].pair_id)
                new = self._add_answers(person, answers)
            except ValueError:
                self._erase_orphans()
                raise
            if new is not None:
                if skipped is not None:
                    skipped.extend(bad)
                return new

    def _picked(self, person: str) -> list[Answer]:
        rows = self.database.read(
            "SELECT candidates.id, prompt, first, second, candidates.verdict, picks.created, choice FROM candidates"
            " JOIN picks ON picks.id = pick WHERE person = ? AND candidates.verdict != 'skip' AND first != second"
            " ORDER BY pick",
            (person,),
            (int, str, str, str, str, str, str | None),
        )
        parts = []
        for candidate, prompt, first, second, verdict, created, choice in rows:
            chosen, rejected = (second, first) if verdict == "second" else (first, second)
            pair = (f"pick-{candidate}", rejected)
            parts.append(Answer(prompt, chosen, (pair,), created, verdict == "tie", choice))
        return _grouped(parts)

    def _kept_against(self, person: str) -> list[Answer]:
        rows = self.database.read(
            "SELECT pictures.id, prompt, digest, pictures.rating, ratings.created FROM pictures JOIN ratings"
            " ON ratings.id = (SELECT max(id) FROM ratings WHERE picture = pictures.id)"
            " WHERE person = ? AND prompt != '' AND pictures.rating IS NOT NULL ORDER BY ratings.id",
            (person,),
            (int, str, str, str, str),
        )
        nots: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        for number, prompt, digest, rating, _ in rows:
            if rating == "not":
                nots[prompt].append((number, digest))
        answers = []
        for keep, prompt, digest, rating, created in rows:
            if rating == "keep" and nots[prompt]:
                rejected = tuple((f"{KEPT}{keep}-{other}", rejected) for other, rejected in nots[prompt])
                answers.append(Answer(prompt, digest, rejected, created, choice=f"{KEPT}{keep}"))
        return answers

    def _copied(self, pair: PreferencePair) -> Answer:
        """What a pair of a file says; its pictures are in the store, though nothing names them yet."""
        for picture in (pair.chosen, pair.rejected):
            if not self.pictures.has(picture.digest):
                with self.database.writing():
                    self.pictures.keep(picture)
        rejected = (pair.id, pair.rejected.digest)
        choice = pair.choice and f"{pair.user} {pair.choice}"  # several people's choices may have one name
        return Answer(pair.prompt, pair.chosen.digest, (rejected,), tie=pair.tie, choice=choice)

    def _add_answers(self, person: str, answers: list[Answer]) -> int | None:
        """File and pick what the person has not said yet, in one transaction; how many answers that are. None where a
        picture was erased meanwhile, since nothing named it."""
        with self.database.writing() as database:
            self.person(person)
            said = Counter(answer.said() for answer in self.answers(person))
            new = [answer for answer in answers if not _counted_off(said, answer.said())]
            if not all(self.pictures.has(digest) for answer in new for digest in answer.pictures()):
                return None
            for answer in new:
                choice, created = answer.choice and uuid4().hex, now()
                for _, rejected in answer.rejected:
                    candidate = self._insert_candidate(
                        database, person, uuid4().hex, answer.prompt, answer.chosen, rejected, "{}", created
                    )
                    verdict = "tie" if answer.tie else "first"
                    self._insert_pick(database, candidate, verdict, created, uuid4().hex, choice)
        return len(new)


def fade(answers: int, half_life: float | None) -> list[float]:
    """How much each of a person's answers counts, the oldest first: 2^(-newer answers / half-life), or 1 without one.

    A choice is one answer, whatever the number of its pairs.
    """
    return [1.0 if half_life is None else 2 ** (-(answers - 1 - index) / half_life) for index in range(answers)]


def _answers_of_one(pairs: Iterable[PreferencePair], skipped: list[PreferenceError] | None) -> Iterator[PreferencePair]:
    """Pairs without soft labels: those are votes of several, and the store keeps what one person has said."""
    for pair in pairs:
        if pair.outcome in (0.5, 1.0):
            yield pair
            continue
        error = PreferenceError(
            f"Pair {quoted(pair.id)} has a probability of {pair.probability:g}, the votes of several people; expected "
            "one person's picks: read the set with Load Preference Pairs, or leave such pairs out.",
            pair.id,
        )
        if skipped is None:
            raise error
        skipped.append(error)


def _grouped(answers: Iterable[Answer]) -> list[Answer]:
    """Answers in their order, with those of one choice joined where the first of them stands."""
    found: dict[Any, Answer] = {}
    for number, answer in enumerate(answers):
        is_part = answer.choice is not None and not answer.tie
        key = (answer.choice, answer.prompt, answer.chosen) if is_part else number
        known = found.get(key)
        found[key] = replace(known, rejected=known.rejected + answer.rejected) if known else answer
    return list(found.values())


def _counted_off(said: Counter[tuple[str, ...]], answer: tuple[str, ...]) -> bool:
    """Whether an answer is one of those that were said, which is then counted off."""
    said[answer] -= 1
    return said[answer] >= 0
