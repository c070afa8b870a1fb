"""The taste store: people, the candidate pairs and pictures they were shown, their picks and ratings. SQLite, with the
pictures beside it."""

from .blind_tests import LONGEST_ARM, BlindTest
from .candidates import MOST_CHOICES, VERDICTS, Candidate, Question
from .errors import LearnedError, MissingError, StoreError, UnusableError
from .pairs import Answer, fade
from .people import DEFAULT_ENCODER, LONGEST_NAME, PERSON_ID, Person
from .pictures import THUMBNAIL
from .ratings import RATINGS, Found, KeptPicture, Rating
from .taste_store import TasteStore

__all__ = [
    "DEFAULT_ENCODER",
    "LONGEST_ARM",
    "LONGEST_NAME",
    "MOST_CHOICES",
    "PERSON_ID",
    "RATINGS",
    "THUMBNAIL",
    "VERDICTS",
    "Answer",
    "BlindTest",
    "Candidate",
    "Found",
    "KeptPicture",
    "LearnedError",
    "MissingError",
    "Person",
    "Question",
    "Rating",
    "StoreError",
    "TasteStore",
    "UnusableError",
    "fade",
]
