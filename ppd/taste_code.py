"""A taste as a line of text, to send to a friend or to keep in a workflow: `ppd1:` and about 80 letters, or `ppd2:`
where noise hides each pick (privacy.py).

Behind the prefix stand, in base64url without padding: the first 8 bytes of the taste encoder's hash, the number of
pairs and the day of its making (days since 1970), 16 bits each, the number of vectors, the largest value of u as a
float, in `ppd2:` epsilon and delta as floats, u in signed bytes of the largest value, and the first 4 bytes of sha256
of all this with the prefix. No picture, prompt or name is in it.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable
from datetime import date, timedelta
from hashlib import sha256

import torch

from .messages import shortened
from .privacy import Guarantee
from .user_embedding import UserEmbedding

PREFIX, PRIVATE_PREFIX = "ppd1:", "ppd2:"
_HEAD, _PRIVACY = struct.Struct(">8sHHBf"), struct.Struct(">ff")
_CHECK = 4
_MOST = 2**16 - 1
_STEPS = 127
_FIRST_DAY = date(1970, 1, 1)


def encode(embedding: UserEmbedding) -> str:
    """The code of a user embedding of at most 255 vectors; how sure it is is left out."""
    u = embedding.u.cpu()
    if len(u) > 255:
        raise ValueError(f"A taste code takes at most 255 vectors, got {len(u)}: write one person down at a time.")
    most = float(u.abs().max())
    steps = torch.zeros_like(u) if most == 0 else (u / most * _STEPS).round()
    day = (date.fromisoformat(embedding.created) - _FIRST_DAY).days
    pairs, day = (min(max(0, number), _MOST) for number in (embedding.pairs, day))
    head = _HEAD.pack(bytes.fromhex(embedding.encoder_hash)[:8], pairs, day, len(u), most)
    prefix = PREFIX
    if embedding.guarantee is not None:
        prefix, head = PRIVATE_PREFIX, head + _PRIVACY.pack(embedding.guarantee.epsilon, embedding.guarantee.delta)
    body = head + steps.to(torch.int8).numpy().tobytes()
    return prefix + base64.urlsafe_b64encode(body + _check(prefix, body)).rstrip(b"=").decode()


def decode(code: str, encoders: Iterable[tuple[str, str]]) -> UserEmbedding:
    """The user embedding of a code, white space in it ignored; `encoders` are names and hashes of the taste encoders
    that are here. ValueError where it is no code, damaged, or of another encoder."""
    text = "".join(code.split())
    start = next((one for one in (PREFIX, PRIVATE_PREFIX) if text.startswith(one)), None)
    if start is None:
        newer = text.startswith("ppd") and text[3:].partition(":")[0].isdecimal()
        what = "a code of another version: update this software" if newer else f"{shortened(text, 40)!r}"
        raise ValueError(f"Expected a taste code that begins with {PREFIX}, got {what}.")
    try:
        data = base64.b64decode(text.removeprefix(start) + "=" * (-(len(text) - len(start)) % 4), b"-_", validate=True)
    except ValueError:  # no base64, or letters that are not even ASCII
        raise _damaged() from None
    body, check = data[:-_CHECK], data[-_CHECK:]
    size = _HEAD.size + (_PRIVACY.size if start == PRIVATE_PREFIX else 0)
    if len(body) <= size or _check(start, body) != check:
        raise _damaged()
    prefix, pairs, day, count, most = _HEAD.unpack_from(body)
    if count == 0 or (len(body) - size) % count or not most >= 0:
        raise _damaged()
    known = list(encoders)
    name, full = next((one for one in known if one[1].startswith(prefix.hex())), (None, ""))
    if name is None:
        here = ", ".join(f"{name} ({found[:16]})" for name, found in known)
        raise ValueError(
            f"This taste code was made with the taste encoder {prefix.hex()}, and here are {here}: ask for that "
            "encoder's folder and put it into models/taste_encoders."
        )
    guarantee = _guarantee(body) if start == PRIVATE_PREFIX else None
    steps = torch.frombuffer(bytearray(body[size:]), dtype=torch.int8).float().view(count, -1)
    created = (_FIRST_DAY + timedelta(days=day)).isoformat()
    return UserEmbedding(steps * (most / _STEPS), name, full, pairs, created, guarantee=guarantee)


def _guarantee(body: bytes) -> Guarantee:
    """Rounded to the digits that a float has, as it was given."""
    epsilon, delta = (float(f"{value:.6g}") for value in _PRIVACY.unpack_from(body, _HEAD.size))
    return Guarantee(epsilon, delta)


def _check(prefix: str, body: bytes) -> bytes:
    return sha256(prefix.encode() + body).digest()[:_CHECK]


def _damaged() -> ValueError:
    return ValueError("The taste code is damaged or cut short: copy the whole of it again.")
