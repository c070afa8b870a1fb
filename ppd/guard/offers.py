"""What a guard rejects, as questions for a person: "not like this" is theirs to say, and never taken for granted."""

from __future__ import annotations

from collections.abc import Sequence

from ..pictures import Picture
from ..store.candidates import Question
from .brand import Verdict


def offers(
    guide: str, verdicts: Sequence[Verdict], pictures: Sequence[Picture], prompts: Sequence[str]
) -> list[Question]:
    """Each stopped picture against a passing one of the same prompt, the passing ones in turn; none where nothing of
    the prompt passes.

    Which is left and which right goes by the pictures' hashes, so that the place tells nothing. `origin` says what was
    rejected and by which rules.
    """
    passing: dict[str, list[Picture]] = {}
    for verdict, picture, prompt in zip(verdicts, pictures, prompts, strict=True):
        if verdict.outcome == "passes":
            passing.setdefault(prompt, []).append(picture)
    questions: list[Question] = []
    for verdict, picture, prompt in zip(verdicts, pictures, prompts, strict=True):
        others = [one for one in passing.get(prompt, []) if one.digest != picture.digest]
        if verdict.outcome != "stops" or not others:
            continue
        other = others[len(questions) % len(others)]
        first, second = sorted((picture, other), key=lambda one: one.digest)
        broken = [str(result.rule) for result in verdict.results if not result.kept]
        rejected = "first" if first is picture else "second"
        origin = {"guard": {"guide": guide, "rejected": rejected, "broken": broken}}
        questions.append(Question(prompt, first, second, origin))
    return questions
