"""Damaged files of every kind of ours, the same ones every time, and what reading one must come to.

Beside the damage that disks and downloads do (mutations.py) there is the damage that somebody means: headers whose
shapes, dtypes and metadata promise what is not there, and tensors of other kinds, shapes and values.

    python -m tests.fuzz KIND FOLDER COUNT SEED     in a process of its own, with a gigabyte and five seconds for each
"""

from __future__ import annotations

import base64
import json
import resource
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load, save

from tests.mutations import mutations

SECONDS, BYTES = 5.0, 1 << 30
LONGEST_MESSAGE = 1000
HARSH = (
    *(-1, 0, 1, 2, 7, 2**31, 10**9, 10**18, 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"), -float("inf")),
    *(True, None, "", "x" * 100_000, "狐", "\ud800", "two\nlines", [], {}, [[]], [1] * 100_000, ["a"], {"a": 1}),
)
SENTENCES = ("Expected", "The ", "This ", "Pair ")
"""How sentences begin that name no file, since a taste or a pair may come from elsewhere."""
CODE = ".code"
"""Of a file that holds a taste code, which else is a line of text."""
DTYPES = (
    *(torch.int8, torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64),
    *(torch.float64, torch.bfloat16, torch.float16),
)


class Kind(NamedTuple):
    """A kind of file: the smallest valid one at `path`, and `use`, which reads it and does with it what it is for."""

    path: Path
    use: Callable[[], Any]


def damaged(data: bytes, count: int, seed: int, ending: str) -> Iterator[bytes]:
    """`count` damaged files of an ending, of which there are some by accident and some that somebody means; all are by
    accident where nothing is known of what the ending holds."""
    makers = {".safetensors": _damaged_tensors, ".json": _damaged_lines, ".jsonl": _damaged_lines, CODE: _damaged_codes}
    return makers.get(ending, mutations)(data, count, seed)


def _damaged_tensors(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Safetensors: a third by accident, the others with other headers, tensors or metadata."""
    accidents, generator = mutations(data, count, seed), np.random.default_rng(seed)
    tensors, metadata = load(data), _metadata(data)
    for accident in accidents:
        match int(generator.integers(6)):
            case 0 | 1:
                yield accident
            case 2:
                yield _with_header(data, generator)
            case 3:
                yield save(_other_tensors(dict(tensors), generator), metadata)
            case _:
                yield save(tensors, _other_metadata(dict(metadata), generator))


def _damaged_lines(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Lines of JSON, damaged by accident or saying what is harsh."""
    generator = np.random.default_rng(seed)
    try:
        rows = [json.loads(data)]
    except ValueError:
        rows = [json.loads(line) for line in data.decode().splitlines()]
    for accident in mutations(data, count, seed):
        if generator.random() < 0.5:
            yield accident
            continue
        harsh = list(rows)
        place = int(generator.integers(len(rows)))
        harsh[place] = _harsher(rows[place], generator)
        yield b"".join(json.dumps(row).encode() + b"\n" for row in harsh)


def _damaged_codes(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """A taste code: its letters, or what they stand for with a checksum of its own, else that would be all that is
    told; one in ten with the other prefix."""
    generator = np.random.default_rng(seed)
    prefix, _, letters = data.partition(b":")
    body = base64.urlsafe_b64decode(letters + b"=" * (-len(letters) % 4))[:-4]
    for accident, other in zip(mutations(data, count, seed), mutations(body, count, seed + 1), strict=True):
        if generator.random() < 0.3:
            yield accident
            continue
        head = (prefix if generator.random() < 0.9 else b"ppd1") + b":"
        yield head + base64.urlsafe_b64encode(other + sha256(head + other).digest()[:4]).rstrip(b"=")


def _metadata(data: bytes) -> dict[str, str]:
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]]).get("__metadata__", {})


def _drawn(values: Any, generator: np.random.Generator) -> Any:
    return values[int(generator.integers(len(values)))]


def _harsher(value: Any, generator: np.random.Generator) -> Any:
    """JSON with one value in it, or all of it, harsh, missing, or there twice."""
    if generator.random() < 0.25 or not isinstance(value, (dict, list)) or not value:
        return _drawn(HARSH, generator)
    if isinstance(value, list):
        place = int(generator.integers(len(value)))
        if generator.random() < 0.2:
            return [*value, value[place]]
        return [*value[:place], _harsher(value[place], generator), *value[place + 1 :]]
    name = _drawn(list(value), generator)
    if generator.random() < 0.1:
        return {key: one for key, one in value.items() if key != name}
    return {**value, name: _harsher(value[name], generator)}


def _with_header(data: bytes, generator: np.random.Generator) -> bytes:
    """Header and tensors that no longer belong together."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    if generator.random() < 0.1:
        text = b'{"a":' + b"[" * 50_000
    else:
        text = json.dumps(_harsher(header, generator)).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _other_metadata(metadata: dict[str, str], generator: np.random.Generator) -> dict[str, str]:
    name = _drawn([*metadata, "else"], generator)
    try:
        said = json.loads(metadata.get(name, ""))
    except ValueError:
        said = metadata.get(name, "")
    if generator.random() < 0.1:
        return {**metadata, name: "[" * 100_000}
    said = _harsher(said, generator)
    text = said if isinstance(said, str) else json.dumps(said)
    return {**metadata, name: text.encode(errors="replace").decode()}


def _other_tensors(tensors: dict[str, torch.Tensor], generator: np.random.Generator) -> dict[str, torch.Tensor]:
    names = list(tensors)
    name, other = _drawn(names, generator), _drawn(names, generator)
    x = tensors[name]
    match int(generator.integers(14)):
        case 0 | 1 | 2:
            x = x.clone()
            if x.is_floating_point():
                harsh = _drawn((torch.nan, torch.inf, -torch.inf, 6e4, -6e4, 3e38), generator)
                x.flatten()[int(generator.integers(x.numel()))] = harsh
        case 3 | 4:
            x = x.to(_drawn(DTYPES, generator))
        case 5:
            x = x.flatten()
        case 6:
            x = x.flatten()[0]
        case 7:
            x = x.T if x.ndim == 2 else x[None]
        case 8:
            x = x[:0]
        case 9:
            x = x[:-1] if len(x) > 1 else torch.cat([x, x])
        case 10:
            x = x.new_zeros(*x.shape[:1], 0, 10**6) if generator.random() < 0.5 else torch.cat([x] * 300)
        case 11:
            del tensors[name]
            return tensors
        case 12:
            tensors[other], x = x.clone(), tensors[other].clone()
        case 13:
            name = _numbered(name, _drawn((10**9, 99, 10**30, "x", ""), generator))
            x = x.clone()
    tensors[name] = x.contiguous()
    return tensors


def _numbered(name: str, number: Any) -> str:
    """The name with its first number, or its end, in place of which another stands."""
    parts = name.split(".")
    place = next((index for index, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join([*parts[:place], str(number), *parts[place + 1 :]])


def outcomes(kind: Kind, count: int, seed: int) -> Counter[str]:
    """How often damaged files were used and how often refused; AssertionError, naming the damage, where one came to
    anything but use or one sentence of ours."""
    original, found = kind.path.read_bytes(), Counter[str]()
    kind.use()  # what is imported or filled at a first use is not the damage's
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        for number, data in enumerate(damaged(original, count, seed, kind.path.suffix)):
            kind.path.write_bytes(data)
            start = time.process_time()
            try:
                kind.use()
                found["used"] += 1
            except ValueError as error:
                said = str(error)
                found["refused"] += 1
                ours = kind.path.name in said or kind.path.parent.name in said or said.startswith(SENTENCES)
                assert ours and len(said) < LONGEST_MESSAGE and "\n" not in said, f"damage {number}: {said[:300]!r}"
            except Exception as error:
                kept = kind.path.with_name(f"damage-{number}{kind.path.suffix}")
                kept.write_bytes(data)
                raise AssertionError(f"damage {number}: {type(error).__name__}: {error} ({kept})") from error
            took = time.process_time() - start  # not by the clock, which runs on while other processes are at work
            assert took < SECONDS, f"damage {number} took {took:.1f} s"
    finally:
        kind.path.write_bytes(original)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < BYTES, f"{grown:,} kB"
    return found


def main() -> None:
    """One kind, in bounded memory."""
    from tests.fuzz_kinds import KINDS

    name, folder, count, seed = sys.argv[1:]
    kind = KINDS[name](Path(folder))
    kind.use()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    print(dict(outcomes(kind, int(count), int(seed))))  # noqa: T201


if __name__ == "__main__":
    main()
