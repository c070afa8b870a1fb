"""Asking well: which candidate pair tells most about a person (BALD, Houlsby et al. 2011, arXiv 1112.5745)."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, zip_longest

import torch
from torch import Tensor

from .encoders.choices import numbered
from .encoders.encoder import PosteriorEncoder, Told
from .encoders.statements import Statement, asked_of, would_ask
from .enough import Known, enough
from .pairs import PreferencePair
from .pictures import Picture, PreferenceError
from .store import Candidate, MissingError, TasteStore, fade
from .user_embedding import UserEmbedding

LAMBDA = math.pi / 8
"""sigmoid(x) is about Phi(sqrt(LAMBDA) x) (MacKay 1992)."""
SPREAD = math.pi * math.log(2) / 2
"""H(Phi(x)) is about exp(-x^2 / (2 SPREAD)) in bits' shape: Houlsby's C squared."""
ALIKE = 0.05
"""Differences that are apart by less than this share of their length, either way round, are one question."""
HARDLY = 0.05
"""Two pictures that differ by less than this share of what any two do look alike, and are not asked about."""
LEAST = 0.05
"""Bits that a question must be expected to tell of somebody who is known well enough: twenty answers would tell one."""
NEWEST_EVERY = 3
"""Every third question is one of the newest, so that what is being painted now is asked about too."""
WORTH = 0.5
"""Of what the most telling candidate tells, what one of the newest must."""
NEWEST = 20
"""How many candidates those are."""
PICK = "pick"
"""What the ids of pairs begin with that were candidates (`TasteStore.answers`)."""
PART = 32
"""Candidates that are looked at before the next question may be asked of them."""


def information(differences: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Expected information about theta ~ N(mean [d], covariance [d, d]), in bits [n], of asking for each difference
    [n, d] of phi(first) - phi(second) over the pick noise."""
    x, m, s = differences.double(), mean.double(), covariance.double()
    a = math.sqrt(LAMBDA) * (x @ m)
    v = LAMBDA * ((x @ s) * x).sum(-1).clamp_min(0)
    p = torch.special.ndtr(a / (1 + v).sqrt())
    entropy = -(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p)) / math.log(2)
    expected = (SPREAD / (v + SPREAD)).sqrt() * torch.exp(-a.square() / (2 * (v + SPREAD)))
    return entropy - expected


def asked_already(differences: Tensor, asked: Tensor) -> Tensor:
    """Which of the differences [n, d] repeat one of those asked [m, d], the pictures either way round: bool [n]."""
    if not len(asked):
        return torch.zeros(len(differences), dtype=torch.bool)
    y, found = asked.double(), []
    for x in differences.double().split(64):  # thousands against thousands would not fit in memory
        apart = torch.minimum(torch.cdist(x, y), torch.cdist(x, -y))
        found.append((apart <= ALIKE * x.norm(dim=-1, keepdim=True)).any(-1))
    return torch.cat(found)


def most_telling(differences: Tensor, asked: Tensor, mean: Tensor, covariance: Tensor) -> int | None:
    """The index of the candidate that tells most, None where all have been asked; of equals the first."""
    order = information(differences, mean, covariance).argsort(descending=True, stable=True)
    for part in order.split(64):  # mostly the first decides, and all against all would be slow
        new = part[~asked_already(differences[part], asked)]
        if len(new):
            return int(new[0])
    return None


def next_question(
    number: int,
    differences: Tensor,
    asked: Tensor,
    mean: Tensor,
    covariance: Tensor,
    opening: Tensor | None = None,
) -> int | None:
    """The index of what to ask after `number` questions, the oldest candidate being first: the most telling, every
    third time of the newest where that is WORTH it; None where all have been asked.

    `opening` [n] marks candidates that differ in a look that no pair has differed in (`statements.would_ask`): while
    there are such, every third question is the most telling of them, however little the population differs there.
    """
    if opening is not None and number % NEWEST_EVERY == 0 and bool(opening.any()):
        rows = opening.nonzero().flatten()
        found = most_telling(differences[rows], asked, mean, covariance)
        if found is not None:
            return int(rows[found])
    best, older = most_telling(differences, asked, mean, covariance), max(0, len(differences) - NEWEST)
    if best is None or number % NEWEST_EVERY != NEWEST_EVERY - 1:
        return best
    new = most_telling(differences[older:], asked, mean, covariance)
    if new is None:
        return best
    most, told = information(differences[[best, older + new]], mean, covariance)
    return older + new if told >= WORTH * most else best


@dataclass
class _Filed:
    """A person's candidates in the order they were filed: ids, rows, phi(first) - phi(second) [n, d] of those that were
    looked at and can be read."""

    ids: list[int]
    rows: dict[int, int]
    differences: Tensor
    known: int = 0
    """The last candidate that was heard of."""
    waiting: tuple[tuple[int, str, str], ...] = ()
    """Candidates that were not looked at yet, by id and pictures, the first to look at first."""
    unseen: tuple[tuple[int, str, str], ...] = ()
    """Candidates with a picture that could not be looked at then: it may be another time."""


@dataclass(frozen=True)
class _Weighed:
    """A person's n open candidates by their picks so far: ids, differences over the pick noise [n, d], which differ in
    a look that no pair has differed in, and which are worth asking (HARDLY, LEAST), bool [n]; the decided ones'
    differences [m, d], how many there are, the embedding, how well it is known, and what it was read from; how many
    open candidates have a picture that cannot be read."""

    ids: list[int]
    differences: Tensor
    opening: Tensor
    worth: Tensor
    asked: Tensor
    decided: int
    embedding: UserEmbedding
    known: Known
    told: Told
    unseen: int

    def would_be_asked(self) -> Tensor:
        """Which of the candidates will be asked, unless an answer changes it: bool [n]."""
        return self.worth & ~asked_already(self.differences, self.asked)

    def asked_next(self, count: int) -> list[int]:
        """At most `count` of the ids, in the order they would be asked."""
        rows = self.worth.nonzero().flatten()
        x, opening, asked = self.differences[rows], self.opening[rows], self.asked
        u, covariance = self.embedding.u[0], self.embedding.covariance
        assert covariance is not None
        found: list[int] = []
        for later in range(count):
            row = next_question(self.decided + later, x, asked, u, covariance, opening)
            if row is None:
                break
            found.append(self.ids[int(rows[row])])
            asked = torch.cat([asked, x[row : row + 1]])
        return found


@dataclass(frozen=True)
class Standing:
    """How an interview stands by one fit of the posterior: what to ask, and what may come after it."""

    question: Candidate | None
    upcoming: tuple[Candidate, ...]
    _weighed: _Weighed

    @property
    def embedding(self) -> UserEmbedding:
        """Behind the picks."""
        return self._weighed.embedding

    @property
    def known(self) -> Known:
        """How well the person is known."""
        return self._weighed.known

    @property
    def told(self) -> Told:
        """What the embedding was read from, as `PosteriorEncoder.statements` takes it."""
        return self._weighed.told

    @property
    def unseen(self) -> int:
        """How many open candidates have a picture that is damaged or gone, and so are not asked."""
        return self._weighed.unseen

    def waiting(self) -> int:
        """How many open candidates would be asked: those that can be read and are not left over."""
        return int(self._weighed.would_be_asked().sum())


def _open_and_decided(filed: _Filed, verdicts: dict[int, str]) -> tuple[list[int], list[int]]:
    """The rows of candidates without and with a verdict."""
    decided = [filed.rows[candidate] for candidate in verdicts if candidate in filed.rows]
    is_open = torch.ones(len(filed.ids), dtype=torch.bool)
    is_open[decided] = False
    return is_open.nonzero().flatten().tolist(), decided


def _none(person: str) -> Sequence[PreferencePair]:
    return ()


class Interview:
    """Asks the people of a store, by what `encoder` sees in their candidates; threads may share it.

    What was seen is kept in memory. A candidate with a picture that cannot be read, or with one picture twice, is not
    asked and its answer does not count. Where the encoder has looks, it asks about those that no pair has differed in.
    Ratings count as `TasteStore.answers` tells them, and before them what `moodboard` returns for a person.
    """

    def __init__(
        self, store: TasteStore, encoder: PosteriorEncoder, moodboard: Callable[[str], Sequence[PreferencePair]] = _none
    ) -> None:
        self.store = store
        self.encoder = encoder
        self.moodboard = moodboard
        self._seen: dict[str, dict[str, Tensor | None]] = {}
        self._filed: dict[str, _Filed] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def ask(self, person: str) -> tuple[Candidate | None, UserEmbedding]:
        """What to ask the person next, and the user embedding behind the picks so far.

        None where every candidate is decided, repeats one that is, or would tell too little.
        """
        standing = self.stand(person)
        return standing.question, standing.embedding

    def stand(self, person: str, most: int | None = None, upcoming: int = 0) -> Standing:
        """How the person's interview stands.

        `most` candidates are looked at now where more are new: of the rest nothing is asked and said yet. `upcoming`
        questions are those that follow if the picks change nothing.
        """
        while True:
            weighed = self._weigh(person, most)
            numbers = weighed.asked_next(1 + upcoming)
            candidates = [self.store.candidate(number) for number in numbers]
            if all(one.verdict is None for one in candidates):  # else one was answered elsewhere just now
                question = candidates[0] if candidates else None
                return Standing(question, tuple(candidates[1:]), weighed)

    def unread(self, person: str) -> int:
        """How many candidates of the person, and pictures that they rated, have not been looked at."""
        filed = self._filed.get(person) or self._nothing()
        rated = self._rated_pictures(person).keys() - self._seen.get(person, {}).keys()
        return len(filed.waiting) + len(self.store.pictures_of(person, after=filed.known)) + len(rated)

    def read(self, person: str, progress: Callable[[int, int], None] | None = None) -> None:
        """Look at the person's pictures that are new, part by part, so that others can be asked about meanwhile;
        `progress(done, of)` may raise to cancel."""
        done, of = 0, self.unread(person)
        while done < of:
            left = len(self._read(person, PART, is_patient=True).waiting)
            done, of = max(0, of - left), max(of, left)
            if progress is not None:
                progress(done, of)
            if not left:
                self._look_at_rated(person)
                return

    def left_over(self, person: str) -> list[int]:
        """The open candidates that are not asked, since they repeat decided ones or would tell too little."""
        weighed = self._weigh(person)
        return [one for one, is_asked in zip(weighed.ids, weighed.would_be_asked(), strict=True) if not is_asked]

    def _weigh(self, person: str, most: int | None = None) -> _Weighed:
        verdicts, filed = self.store.verdicts(person), self._read(person, most)
        rows, decided = _open_and_decided(filed, verdicts)
        told = self._told(person, verdicts, filed, now=most is None)
        embedding = self.encoder.encode_differences(*told)
        assert embedding.covariance is not None
        x, asked = filed.differences[rows] / embedding.noise, filed.differences[decided] / embedding.noise
        opening = torch.zeros(len(rows), dtype=torch.bool)
        if self.encoder.looks is not None:
            noise = self.encoder.prior.noise
            differed = asked_of(self.encoder.looks, told.differences * noise, told.weights, told.choices)
            opening = would_ask(self.encoder.looks, differed, filed.differences[rows] * noise)
        prior = self.encoder.prior
        worth = filed.differences[rows].norm(dim=-1) * prior.noise >= HARDLY * math.sqrt(2 * prior.dim)
        known = enough(prior, embedding.covariance)
        if not known.more:
            worth &= information(x, embedding.u[0], embedding.covariance) >= LEAST
        ids = [filed.ids[row] for row in rows]
        unseen = sum(candidate not in verdicts for candidate, *_ in filed.unseen)
        return _Weighed(ids, x, opening, opening | worth, asked, len(verdicts), embedding, known, told, unseen)

    def statements(self, person: str) -> list[Statement]:
        """What the person's picks so far say of each of the encoder's looks."""
        return self.encoder.statements(*self._told(person, self.store.verdicts(person), self._read(person)))

    def forget(self, person: str) -> None:
        """Drop what was seen of a person's candidates, after whoever is looking at them just now."""
        with self._locks[person]:
            self._filed.pop(person, None)
            self._seen.pop(person, None)
            self.encoder.features.drop_memory()

    def _told(self, person: str, verdicts: dict[int, str], filed: _Filed, now: bool = True) -> Told:
        """What the person has said, the moodboard first, then the oldest; the best of several is one answer, and fades
        as one. Unless `now`, ratings count as far as their pictures have been looked at."""
        who = self.store.person(person)
        if now and who.ratings:
            self._look_at_rated(person)
        phi, answers = self._seen.get(person, {}), self.store.answers(person)
        rated: list[Tensor] = []
        rows: list[tuple[int, float, float, float, str | None]] = []

        def rate(chosen: str, rejected: str, weight: float, choice: str | None) -> None:
            one, other = phi.get(chosen), phi.get(rejected)
            if one is not None and other is not None:
                rows.append((len(filed.ids) + len(rated), 1.0, 1.0, weight, choice))
                rated.append(one - other)

        for pair in self.moodboard(person) if who.ratings else ():
            rate(pair.chosen.digest, pair.rejected.digest, pair.weight, pair.choice)
        for answer, weight in zip(answers, fade(len(answers), who.half_life), strict=True):
            for name, rejected in answer.rejected:
                kind, _, number = name.partition("-")
                row = filed.rows.get(int(number)) if kind == PICK else None
                if kind != PICK:
                    rate(answer.chosen, rejected, weight, answer.choice)
                elif row is not None:
                    sign, outcome = -1.0 if verdicts.get(int(number)) == "second" else 1.0, 0.5 if answer.tie else 1.0
                    rows.append((row, sign, outcome, weight, answer.choice))
        every = torch.cat([filed.differences, *(difference[None] for difference in rated)])
        signs, outcomes, weights = (torch.tensor([entry[column] for entry in rows]) for column in (1, 2, 3))
        differences = every[[row for row, *_ in rows]] * signs[:, None]
        return Told(differences, outcomes, weights, numbered([choice for *_, choice in rows]))

    def _look_at_rated(self, person: str) -> None:
        """Look at pictures that ratings speak of and that were not seen; those that could not be are tried again."""
        with self._locks[person]:  # which `forget` waits for
            seen = self._seen.get(person, {})
            new = {digest: one for digest, one in self._rated_pictures(person).items() if seen.get(digest) is None}
            if new:
                phi = self._look(new)
                self._seen[person] = {**seen, **{digest: phi.get(digest) for digest in new}}

    def _rated_pictures(self, person: str) -> dict[str, Picture]:
        """The pictures that ratings and the moodboard speak of, by their hashes."""
        if not self.store.person(person).ratings:
            return {}
        found = {one.digest: one for pair in self.moodboard(person) for one in (pair.chosen, pair.rejected)}
        for answer in self.store.answers(person):
            if not answer.rejected[0][0].startswith(PICK):
                found |= self._stored(answer.pictures())
        return found

    def _nothing(self) -> _Filed:
        return _Filed([], {}, torch.empty(0, self.encoder.prior.dim))

    def _read(self, person: str, most: int | None = None, is_patient: bool = False) -> _Filed:
        """The person's candidates, those filed since the last time looked at now, or `most` of them.

        With `most`, who finds another thread looking takes what it has seen so far, unless `is_patient`.
        """
        lock = self._locks[person]
        known = self._filed.get(person)
        if not lock.acquire(blocking=most is None or is_patient or known is None):
            assert known is not None
            return known
        try:
            filed = self._filed.get(person) or self._nothing()
            newest = self.store.pictures_of(person, after=filed.known)
            if not newest and not filed.waiting and not filed.unseen:
                return filed
            waiting = self._in_turn(person, (*filed.waiting, *newest)) if newest else filed.waiting
            now = (*filed.unseen, *waiting[:most])
            # Another object, not this one changed: another thread may be at work with it
            seen = self._with(filed, now, self.look({digest for _, *pair in now for digest in pair}))
            seen.known = newest[-1][0] if newest else filed.known
            seen.waiting = () if most is None else tuple(waiting[most:])
            self._filed[person] = seen
            return seen
        finally:
            lock.release()

    def _in_turn(self, person: str, new: Sequence[tuple[int, str, str]]) -> tuple[tuple[int, str, str], ...]:
        """New candidates as they are looked at: open and decided ones in turn, the newest first."""
        verdicts = self.store.verdicts(person)
        newest = sorted(new, reverse=True)
        parts = ([one for one in newest if (one[0] in verdicts) == is_decided] for is_decided in (False, True))
        return tuple(one for one in chain.from_iterable(zip_longest(*parts)) if one is not None)

    @staticmethod
    def _with(filed: _Filed, new: Sequence[tuple[int, str, str]], phi: dict[str, Tensor]) -> _Filed:
        """What is filed, with new candidates whose pictures look like `phi`."""
        kept = {
            one: phi[first] - phi[second]
            for one, first, second in new
            if first != second and {first, second} <= phi.keys()
        }
        ids = [*filed.ids, *kept]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        differences = torch.cat([filed.differences, *(difference[None] for difference in kept.values())])[order]
        ids = [ids[row] for row in order]
        unseen = tuple(entry for entry in new if not {*entry[1:]} <= phi.keys())
        return _Filed(ids, {one: row for row, one in enumerate(ids)}, differences, unseen=unseen)

    def look(self, digests: set[str]) -> dict[str, Tensor]:
        """phi / noise [d] of every stored picture that can be read, by its hash."""
        return self._look(self._stored(digests))

    def _stored(self, digests: Iterable[str]) -> dict[str, Picture]:
        found: dict[str, Picture] = {}
        for digest in digests:
            with suppress(MissingError):
                found[digest] = Picture(self.store.picture(digest))
        return found

    def _look(self, pictures: dict[str, Picture]) -> dict[str, Tensor]:
        broken: dict[int, PreferenceError] = {}
        features = self.encoder.features.picture_features(list(pictures.values()), broken=broken)
        phi = self.encoder.prior.whiten(features) / self.encoder.prior.noise
        return {
            digest: row for index, (digest, row) in enumerate(zip(pictures, phi, strict=True)) if index not in broken
        }
