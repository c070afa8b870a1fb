"""The taste store: people, the candidate pairs they were shown, their picks. SQLite, with the pictures beside it."""

from .candidates import VERDICTS, Candidate
from .errors import MissingError, StoreError, UnusableError
from .people import DEFAULT_ENCODER, LONGEST_NAME, PERSON_ID, Person
from .pictures import THUMBNAIL
from .taste_store import TasteStore, fade

__all__ = [
    "DEFAULT_ENCODER",
    "LONGEST_NAME",
    "PERSON_ID",
    "THUMBNAIL",
    "VERDICTS",
    "Candidate",
    "MissingError",
    "Person",
    "StoreError",
    "TasteStore",
    "UnusableError",
    "fade",
]
