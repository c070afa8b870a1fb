"""Which question to ask: the information against its definition, and that asking by it beats asking at random."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from ppd.encoders.posterior import fit_posterior
from ppd.encoders.statements import asked_of, would_ask
from ppd.enough import Known
from ppd.pictures import Picture
from ppd.pocket.studio import load_encoder
from ppd.questions import HARDLY, NEWEST, Interview, asked_already, information, most_telling, next_question
from ppd.store import MissingError, TasteStore
from tests.slowness import slowness


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_information_is_that_of_its_definition(scale):
    """Mutual information of a Bradley-Terry pick and theta, by draws: the probit errs by .03 bits."""
    mean, root = draw(3, seed=1), draw(3, 3, seed=2)
    x = draw(6, 3, seed=3) * scale
    p = torch.sigmoid((mean + draw(300_000, 3, seed=4) @ root.T) @ x.T)

    def bits(p):
        return -(torch.special.xlogy(p, p) + torch.special.xlogy(1 - p, 1 - p)) / math.log(2)

    wanted = bits(p.mean(0)) - bits(p).mean(0)
    torch.testing.assert_close(information(x, mean, root @ root.T), wanted, rtol=0, atol=0.04)


def test_what_is_known_tells_nothing():
    mean, x = draw(4, seed=1), draw(5, 4, seed=2)
    assert information(x, mean, torch.zeros(4, 4)).abs().max() < 0.01
    assert information(torch.zeros(1, 4), mean, torch.eye(4)).abs().max() < 1e-9


def test_the_unknown_direction_is_asked_for_first():
    x, covariance = torch.eye(3), torch.diag(torch.tensor([0.1, 4.0, 1.0]))
    assert most_telling(x, torch.zeros(0, 3), torch.zeros(3), covariance) == 1
    assert most_telling(x, -x[1:2], torch.zeros(3), covariance) == 2
    assert most_telling(x, x, torch.zeros(3), covariance) is None
    assert most_telling(x[:0], x, torch.zeros(3), covariance) is None


def test_near_duplicates_either_way_round():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.02], [0.9, 0.0], [0.0, 1.0]])
    assert asked_already(x, torch.tensor([[1.0, 0.0]])).tolist() == [True, True, False, False]


def test_asking_well_needs_fewer_picks_than_asking_at_random():
    """40 simulated people in 12 dimensions, a pool of 200 pairs: alignment of the posterior mean with the taste."""
    d, people, pool = 12, 40, draw(200, 12, seed=5)
    covariance = torch.diag(torch.linspace(4.0, 0.1, d, dtype=torch.float64))
    mean = torch.zeros(d, dtype=torch.float64)
    tastes = draw(people, d, seed=6) @ covariance.sqrt()
    luck = torch.rand(people, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(8)

    def alignment(asks_well):
        found = []
        for taste, chance in zip(tastes, luck, strict=True):
            order, m, s = torch.randperm(200, generator=generator).tolist(), mean, covariance
            asked = []
            for number in range(6):
                choice = most_telling(pool, pool[asked], m, s) if asks_well else order[number]
                asked.append(choice)
                x = pool[asked]
                signs = torch.where(chance[asked] < torch.sigmoid(x @ taste), 1.0, -1.0)
                m, s = fit_posterior(x * signs[:, None], torch.ones(len(asked)), mean, covariance)
            found.append(torch.cosine_similarity(m, taste, dim=0))
        return float(torch.stack(found).mean())

    random, well = alignment(False), alignment(True)
    assert well > random + 0.08  # .62 against .48


def test_ten_thousand_candidates_take_no_time():
    x, covariance = draw(10_000, 48, seed=1), torch.eye(48)
    most_telling(x, x[:100], torch.zeros(48), covariance)
    start = time.process_time()
    most_telling(x, x[:100], torch.zeros(48), covariance)
    assert time.process_time() - start < 0.1 * slowness()


def test_each_third_question_is_among_the_newest():
    x = torch.cat([torch.eye(3), 0.4 * draw(NEWEST, 3, seed=3).float()])
    nothing, known = x[:0], (torch.zeros(3), torch.diag(torch.tensor([1.0, 4.0, 2.0])))
    x[3:] *= 1.2 / x[3:].norm(dim=1, keepdim=True).clamp_min(1.2)  # the first three tell most
    assert [next_question(number, x, nothing, *known) for number in (0, 1, 3)] == [1, 1, 1]
    third = next_question(2, x, nothing, *known)
    assert third == 3 + information(x[3:], *known).argmax()
    assert next_question(2, x, x[3:], *known) == 1  # all of the newest repeat what was asked
    assert next_question(2, x[:2], nothing, *known) == 1
    assert next_question(2, x, x, *known) is None


@pytest.fixture(scope="module")
def encoder():
    return load_encoder()


@pytest.fixture
def store(tmp_path):
    return TasteStore(tmp_path / "store")


def plain(*colour):
    return Picture.from_image(Image.new("RGB", (64, 64), colour))


def fill(store, person, pairs):
    return [store.add_candidate(person, f"prompt {number}", *pair) for number, pair in enumerate(pairs)]


PAIRS = [
    (plain(128, 128, 128), plain(129, 128, 128)),  # tells next to nothing
    (plain(200, 40, 40), plain(40, 40, 200)),
    (plain(20, 20, 20), plain(230, 230, 230)),
    (plain(40, 200, 40), plain(128, 128, 128)),
]


def test_an_interview_asks_everything_once_but_the_dull_pair(store, encoder):
    aki = store.add_person("Aki").id
    candidates = fill(store, aki, PAIRS)
    interview, asked = Interview(store, encoder), []
    while (question := interview.ask(aki)[0]) is not None:
        asked.append(question.id)
        store.pick(question.id, "skip" if len(asked) == 1 else "first", f"r{len(asked)}")
    assert sorted(asked) == candidates[1:] and interview.left_over(aki) == candidates[:1]
    assert interview.ask(aki)[1].pairs == 2


def test_new_candidates_picks_and_undo_are_seen(store, encoder):
    aki = store.add_person("Aki").id
    interview = Interview(store, encoder)
    assert interview.ask(aki)[0] is None
    (first,) = fill(store, aki, PAIRS[1:2])
    assert interview.ask(aki)[0].id == first
    store.pick(first, "second", "r1")
    assert interview.ask(aki)[0] is None
    repeated = store.add_candidate(aki, "again", *reversed(PAIRS[1]))
    assert interview.ask(aki)[0] is None
    store.undo(aki, "u1")
    assert interview.ask(aki)[0].id in (first, repeated)


def test_while_more_is_to_be_known_what_tells_little_is_asked_all_the_same(store, encoder, monkeypatch):
    """Else a prior whose people hardly differ, or much pick noise, would leave nobody anything to answer."""
    aki = store.add_person("Aki").id
    monkeypatch.setattr("ppd.questions.LEAST", 2.0)  # more than any question tells
    fill(store, aki, PAIRS[1:4])
    interview = Interview(store, encoder)
    assert interview.stand(aki).waiting() == 3
    monkeypatch.setattr("ppd.questions.enough", lambda *posterior: Known(0.0))
    monkeypatch.setattr("ppd.questions.would_ask", lambda looks, known, x: torch.zeros(len(x), dtype=torch.bool))
    assert interview.stand(aki).waiting() == 0


def test_what_is_never_asked_can_be_skipped(store, encoder):
    aki = store.add_person("Aki").id
    first, _, lost = fill(store, aki, PAIRS[1:4])
    store.pick(first, "second", "r1")
    repeated = store.add_candidate(aki, "again", *reversed(PAIRS[1]))
    alike = store.add_candidate(aki, "hardly two pictures", plain(250, 10, 10), plain(250, 11, 10))
    store.picture(PAIRS[3][0].digest).unlink()
    interview = Interview(store, encoder)
    assert interview.left_over(aki) == [repeated, alike] and interview.stand(aki).waiting() == 1


def test_two_pictures_that_look_alike_are_not_asked_about(store, encoder):
    aki = store.add_person("Aki").id
    interview = Interview(store, encoder)
    store.add_candidate(aki, "hardly two pictures", plain(250, 10, 10), plain(250, 11, 10))
    assert interview.ask(aki)[0] is None and interview.stand(aki).waiting() == 0
    (red_or_blue,) = fill(store, aki, PAIRS[1:2])
    assert interview.ask(aki)[0].id == red_or_blue


def test_an_interview_asks_by_the_rule(store, encoder, monkeypatch):
    """Each of its questions is what `next_question` says to the embedding and the candidates then."""
    aki = store.add_person("Aki").id
    colours = torch.randint(0, 256, (30, 2, 3), generator=torch.Generator().manual_seed(1)).tolist()
    candidates = fill(store, aki, [(plain(*first), plain(*second)) for first, second in colours])
    interview, encoded = Interview(store, encoder), encoder.encode([])
    x, asked = interview._read(aki).differences, []
    for number in range(6):
        question, embedding = interview.ask(aki)
        rows = [row for row in range(30) if row not in asked]
        torch.testing.assert_close(embedding.u, encoded.u, rtol=0, atol=1e-5)
        told = asked_of(encoder.looks, x[asked] * encoder.prior.noise)
        opening = would_ask(encoder.looks, told, x[rows] * encoder.prior.noise)
        known = embedding.u[0], embedding.covariance
        new, old = (part / embedding.noise for part in (x[rows], x[asked]))
        apart = x[rows].norm(dim=1) * encoder.prior.noise >= HARDLY * math.sqrt(2 * encoder.prior.dim)
        worth = (opening | apart).nonzero().flatten().tolist()  # also what tells little: more is to be known
        expected = rows[worth[next_question(number, new[worth], old, *known, opening[worth])]]
        assert question.id == candidates[expected]
        asked.append(expected)
        store.pick(question.id, ("first", "second")[number % 2], f"r{number}")
        encoded = encoder.encode(store.pairs(aki))


def test_how_an_interview_stands_is_one_fit(store, encoder, monkeypatch):
    aki = store.add_person("Aki").id
    fill(store, aki, PAIRS[1:4])
    fits, fit = [], encoder.encode_differences
    monkeypatch.setattr(encoder, "encode_differences", lambda *told: fits.append(told) or fit(*told))
    now = Interview(store, encoder).stand(aki, upcoming=2)
    assert (now.question is not None, now.known.more, now.waiting(), len(fits)) == (True, 8, 3, 1)


def test_what_was_answered_elsewhere_meanwhile_is_not_asked(store, encoder, monkeypatch):
    aki = store.add_person("Aki").id
    fill(store, aki, PAIRS[1:4])
    interview = Interview(store, encoder)
    found, weigh = [], interview._weigh

    def in_between(*arguments):
        weighed = weigh(*arguments)
        found.extend(weighed.asked_next(1))
        if len(found) == 1:
            store.pick(found[0], "first", "another window")
        return weighed

    monkeypatch.setattr(interview, "_weigh", in_between)
    question, embedding = interview.ask(aki)
    assert question.verdict is None and question.id == found[1] != found[0]
    assert embedding.pairs == 1


def test_an_interview_learns_what_the_encoder_does(store, encoder):
    """The embedding behind picks, ties, revisions and fading is that of the person's pairs."""
    aki = store.add_person("Aki").id
    for candidate, verdict in zip(fill(store, aki, PAIRS), ("second", "tie", "skip", "first"), strict=True):
        store.pick(candidate, verdict, f"r{candidate}")
    store.set_half_life(aki, 2)
    learned, encoded = Interview(store, encoder).ask(aki)[1], encoder.encode(store.pairs(aki))
    torch.testing.assert_close(learned.u, encoded.u, rtol=0, atol=1e-5)
    assert learned.pairs == encoded.pairs == 3


def test_the_best_of_several_is_one_pick_and_fades_as_one(store, encoder):
    """A grid of four, and then a pick of two."""
    aki, shown = store.add_person("Aki").id, [*PAIRS[1], *PAIRS[2]]
    for picture in shown:
        store.add_picture(aki, "a grid", picture)
    digests = [picture.digest for picture in shown]
    store.choose(aki, "a grid", digests, digests[0], "grid")
    store.pick(store.add_candidate(aki, "another", *PAIRS[3]), "second", "last")
    store.set_half_life(aki, 1)
    told = store.pairs(aki)
    assert [(pair.choice is None, pair.weight) for pair in told] == [(False, 0.5)] * 3 + [(True, 1.0)]
    interview = Interview(store, encoder)
    learned, encoded = interview.ask(aki)[1], encoder.encode(told)
    torch.testing.assert_close(learned.u, encoded.u, rtol=0, atol=1e-5)
    assert learned.pairs == encoded.pairs == 2
    as_pairs = encoder.encode([replace(pair, choice=None) for pair in told])
    assert (as_pairs.u - learned.u).norm() > 0.05 and as_pairs.pairs == 4
    said = {one.name: one for one in encoder.statements(*encoder.read(told))}
    for one in interview.statements(aki):
        assert one.probability == pytest.approx(said[one.name].probability, abs=1e-4)


def test_exported_and_imported_picks_make_the_same_embedding_to_the_last_bit(store, encoder, tmp_path):
    aki, bo = (store.add_person(name).id for name in ("Aki", "Bo"))
    for candidate, verdict in zip(fill(store, aki, PAIRS), ("second", "tie", "skip", "first"), strict=True):
        store.pick(candidate, verdict, f"r{candidate}")
    store.export(aki, tmp_path / "set")
    store.add_pairs(bo, tmp_path / "set")
    first, second = encoder.encode(store.pairs(aki)), encoder.encode(store.pairs(bo))
    assert torch.equal(first.u, second.u) and torch.equal(first.covariance_factor, second.covariance_factor)


def test_a_picture_that_was_lost_is_not_asked_about(store, encoder):
    aki = store.add_person("Aki").id
    candidates = fill(store, aki, PAIRS[1:3])
    store.picture(PAIRS[2][0].digest).unlink()
    assert Interview(store, encoder).ask(aki)[0].id == candidates[0]


def test_one_picture_twice_is_not_asked_and_its_answer_does_not_count(store, encoder):
    """As stores of earlier versions hold it, where samplers were bypassed."""
    aki = store.add_person("Aki").id
    first, same, answered = fill(store, aki, PAIRS[1:])
    store.pick(answered, "first", "r1")
    with sqlite3.connect(store.folder / "taste.sqlite3") as database:
        database.execute("UPDATE candidates SET second = first WHERE id IN (?, ?)", (same, answered))
    candidate, embedding = Interview(store, encoder).ask(aki)
    assert candidate.id == first and embedding.pairs == 0
    store.pick(first, "first", "r2")
    candidate, embedding = Interview(store, encoder).ask(aki)
    assert candidate is None and embedding.pairs == 1
    assert [pair.id for pair in store.pairs(aki)] == [f"pick-{first}"]


def test_whoever_was_deleted_is_not_asked(store, encoder):
    aki = store.add_person("Aki").id
    fill(store, aki, PAIRS[1:2])
    interview = Interview(store, encoder)
    interview.ask(aki)
    assert len(encoder.features._memory) >= 2
    store.delete_person(aki)
    interview.forget(aki)
    assert not encoder.features._memory and not interview._filed
    with pytest.raises(MissingError, match="no person"):
        interview.ask(aki)


def test_who_was_looking_at_rated_pictures_leaves_nothing_of_whoever_was_deleted(store, encoder, monkeypatch):
    aki = store.add_person("Aki").id
    for rating, one in zip(("keep", "not"), PAIRS[1], strict=True):
        store.rate(aki, store.add_picture(aki, "a lake", one), rating, f"{aki} {rating}")
    interview, looks, goes_on = Interview(store, encoder), threading.Event(), threading.Event()

    def slowly(pictures, look=interview._look):
        looks.set()
        goes_on.wait(10)
        return look(pictures)

    monkeypatch.setattr(interview, "_look", slowly)
    reader = threading.Thread(target=interview._look_at_rated, args=(aki,))
    reader.start()
    looks.wait(10)
    store.delete_person(aki)
    forgets = threading.Thread(target=interview.forget, args=(aki,))
    forgets.start()
    forgets.join(0.2)
    goes_on.set()
    for thread in (reader, forgets):
        thread.join(10)
    assert interview._seen == {} == interview._filed and not encoder.features._memory
    with pytest.raises(MissingError, match="no person"):
        interview._look_at_rated(aki)


def test_ten_thousand_pairs_with_a_thousand_picks_are_asked_fast(store, encoder):
    aki = store.add_person("Aki").id
    digests = [store.pictures.keep(plain(*colour)) for colour in torch.randint(0, 256, (200, 3)).tolist()]
    with store.database.writing() as database:
        for number in range(10_000):
            pair = digests[number % 200], digests[(number // 200 + 3 * number + 1) % 200]
            candidate = store._insert_candidate(database, aki, f"{number}", "p", *pair, "{}", "2026-01-01")
            if number < 1000:
                store._insert_pick(database, candidate, "first", "2026-01-01", f"r{number}")
    interview = Interview(store, encoder)
    seconds = []
    for _ in range(4):  # the first reads the pictures
        start = time.process_time()
        interview.ask(aki)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.1 * slowness()  # about .04, and what a press may take


def test_the_newest_are_not_asked_about_where_an_old_one_tells_twice_as_much():
    x = torch.ones(NEWEST + 1, 1) * torch.linspace(0.4, 0.5, NEWEST + 1)[:, None]
    x[0] = 2.0
    known = x[:0], torch.zeros(1), torch.eye(1)
    assert next_question(2, x, *known) == 0
    x[0] = 0.6
    assert next_question(2, x, *known) == NEWEST and next_question(1, x, *known) == 0


def test_while_a_look_was_never_asked_each_third_question_asks_it():
    x = torch.eye(4)[[0, 0, 1, 2]] * torch.tensor([[3.0], [2.9], [2.0], [0.5]])
    opening = torch.tensor([False, False, False, True])
    known = x[:0], torch.zeros(4), torch.eye(4)
    assert [next_question(number, x, *known, opening) for number in range(4)] == [3, 0, 0, 3]
    assert next_question(0, x, x[3:], *known[1:], opening) == 0  # asked already
    assert next_question(0, x, *known, torch.zeros(4, dtype=torch.bool)) == 0


def test_twelve_pickers_whose_pairs_were_as_bright_as_each_other_are_asked_of_brightness(store, encoder):
    """Contract: what the pairs never varied is said to be not asked yet, and a pair that varies it comes next."""
    aki = store.add_person("Aki").id
    interview = Interview(store, encoder)
    assert {one.state for one in interview.statements(aki)} == {"not asked yet"}
    alike = [(plain(100 + i, 100, 100 - i), plain(100 - i, 100, 100 + i)) for i in range(2, 14)]
    for number, candidate in enumerate(fill(store, aki, alike)):
        store.pick(candidate, "first", f"r{number}")
    said = {one.name: one for one in interview.statements(aki)}
    assert said["brightness"].state == "not asked yet"
    fill(store, aki, [(plain(90, 100, 110), plain(110, 100, 90)), (plain(15, 15, 15), plain(240, 240, 240))])
    assert interview.ask(aki)[0].id == store.pictures_of(aki)[-1][0]


def test_many_new_candidates_are_looked_at_part_by_part_and_asked_about_meanwhile(store, encoder):
    """The newest open ones and the latest picks first; in the end as if all had been looked at together."""
    aki = store.add_person("Aki").id
    colours = torch.randint(0, 256, (80, 2, 3), generator=torch.Generator().manual_seed(2)).tolist()
    candidates = fill(store, aki, [(plain(*first), plain(*second)) for first, second in colours])
    for number, candidate in enumerate(candidates[:10]):
        store.pick(candidate, "first", f"r{number}")
    interview, steps = Interview(store, encoder), []
    standing = interview.stand(aki, most=4, upcoming=2)
    assert standing.question.id in candidates[-2:] and len(standing.upcoming) == 1
    assert standing.embedding.pairs == 2 and interview.unread(aki) == 76
    (late,) = fill(store, aki, PAIRS[1:2])
    assert interview.unread(aki) == 77

    def progress(done, of):
        asked = interview.stand(aki, most=1)
        steps.append((done, of, asked.embedding.pairs))

    interview.read(aki, progress)
    assert [(done, of) for done, of, _ in steps] == [(32, 77), (65, 77), (77, 77)]
    assert steps[-1][2] == 10 and interview.unread(aki) == 0
    whole = Interview(store, encoder)
    assert interview.stand(aki).question == whole.stand(aki).question
    assert interview._filed[aki].ids == whole._filed[aki].ids == [*candidates, late]
    torch.testing.assert_close(interview._filed[aki].differences, whole._filed[aki].differences)


def test_who_finds_another_looking_takes_what_has_been_seen(store, encoder):
    aki = store.add_person("Aki").id
    fill(store, aki, PAIRS)
    interview = Interview(store, encoder)
    interview.stand(aki, most=2)
    with interview._locks[aki]:
        standing = interview.stand(aki, most=2)
    assert standing.question is not None and interview.unread(aki) == 2


def test_what_may_come_next_is_what_would_be_asked_after_a_skip(store, encoder):
    aki = store.add_person("Aki").id
    fill(store, aki, PAIRS)
    interview = Interview(store, encoder)
    now = interview.stand(aki, upcoming=2)
    assert len({now.question.id, *(one.id for one in now.upcoming)}) == 3
    store.pick(now.question.id, "skip", "r")
    assert interview.stand(aki).question.id == now.upcoming[0].id
