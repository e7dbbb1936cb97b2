"""How to tell the sandbox to misbehave.

**In a request**: a marker in the prompt, in the last user message, or in the text to be spoken or embedded::

    a red fox [[sandbox: status=429 retry_after=2]]

Several markers add up. An unknown directive, or a value it cannot have, is answered with 400, so that a typo shows.
The marker is cut out before the text is drawn, spoken or echoed.

**From outside**: ``Faults.add`` in a test, or ``POST /_control`` (see ``control.py``), for the next requests to a path.
These strike before authentication, as a broken edge of a provider would, and win over a marker.

Before the first byte
    ``status=N`` the provider's own error with that status · ``code=WORD`` its code · ``retry_after=S`` its header ·
    ``html=N`` an edge's HTML page with that status · ``moderated`` the provider's refusal of a prompt ·
    ``stall=S`` wait S seconds first · ``hangup`` close the connection without a byte
While answering (a *piece* is one event of a stream, else an eighth of the body, 16 KiB at most)
    ``stall_after=N:S`` after N pieces, wait S seconds · ``break_after=N`` after N pieces, abort the connection ·
    ``drip`` one byte at a time · ``split=N`` N bytes at a time · ``garbage`` a 200 whose JSON is cut off
Chat and other streams
    ``tokens=N`` say exactly N tokens · ``interval_ms=N`` that long between tokens · ``no_usage`` leave usage out ·
    ``no_done`` leave the stream's end mark out · ``error_in_stream`` or ``error_in_stream=N`` an error event after
    N pieces (3) and no more · ``comments`` a comment line before each event · ``crlf`` CRLF line ends
Jobs and media
    ``fail`` the job ends failed · ``job_s=S`` it takes S seconds · ``huge=N`` media padded to N bytes, still valid
When it applies
    ``times=N`` only the first N times this very text arrives · ``only=NAME`` only at the provider of that name
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any

MARKER = re.compile(r"\[\[sandbox:(.*?)\]\]", re.DOTALL)
MAX_WAIT_S = 3600.0
MAX_HUGE_BYTES = 4 * 1024**3
MAX_TOKENS = 200_000
#: Texts whose ``times`` are remembered; the oldest is forgotten first.
MAX_COUNTED_TEXTS = 10_000
MAX_PENDING_FAULTS = 1_000


class UnknownDirective(ValueError):
    """A directive is not known, or its value makes no sense. The message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StallAfter:
    """Wait ``seconds_s`` once ``pieces`` pieces are out."""

    pieces: int
    seconds_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """What a request is to suffer; the module's docstring says what each one does."""

    status: int | None = None
    code: str | None = None
    retry_after: float | None = None
    html: int | None = None
    moderated: bool = False
    stall: float = 0.0
    hangup: bool = False
    stall_after: StallAfter | None = None
    break_after: int | None = None
    drip: bool = False
    split: int | None = None
    garbage: bool = False
    tokens: int | None = None
    interval_ms: float | None = None
    no_usage: bool = False
    no_done: bool = False
    error_in_stream: int | None = None
    comments: bool = False
    crlf: bool = False
    fail: bool = False
    job_s: float | None = None
    huge: int | None = None
    times: int | None = None
    only: str | None = None

    def over(self, weaker: Directives) -> Directives:
        """These directives, completed by ``weaker`` where they say nothing."""
        said = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}
        return replace(weaker, **said)


NOTHING = Directives()


def _flag(value: str) -> bool:
    if value:
        raise ValueError("takes no value")
    return True


def _number(least: float, most: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        number = float(value)
        if not least <= number <= most:
            raise ValueError(f"must be from {least:g} to {most:g}")
        return number

    return parse


def _whole(least: int, most: int, empty: int | None = None) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not value and empty is not None:
            return empty
        number = int(value)
        if not least <= number <= most:
            raise ValueError(f"must be from {least} to {most}")
        return number

    return parse


def _word(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value):
        raise ValueError("must be a word")
    return value


def _stall_after(value: str) -> StallAfter:
    pieces, _, seconds = value.partition(":")
    return StallAfter(pieces=_whole(0, MAX_TOKENS)(pieces), seconds_s=_number(0, MAX_WAIT_S)(seconds))


_seconds = _number(0, MAX_WAIT_S)
_error_status = _whole(400, 599)

PARSERS: Mapping[str, Callable[[str], Any]] = {
    "status": _error_status,
    "code": _word,
    "retry_after": _seconds,
    "html": _whole(200, 599),
    "moderated": _flag,
    "stall": _seconds,
    "hangup": _flag,
    "stall_after": _stall_after,
    "break_after": _whole(0, MAX_TOKENS),
    "drip": _flag,
    "split": _whole(1, 1 << 20),
    "garbage": _flag,
    "tokens": _whole(0, MAX_TOKENS),
    "interval_ms": _number(0, MAX_WAIT_S * 1000),
    "no_usage": _flag,
    "no_done": _flag,
    "error_in_stream": _whole(0, MAX_TOKENS, empty=3),
    "comments": _flag,
    "crlf": _flag,
    "fail": _flag,
    "job_s": _seconds,
    "huge": _whole(1, MAX_HUGE_BYTES),
    "times": _whole(1, 1_000_000),
    "only": _word,
}


def parse_directives(text: str) -> Directives:
    """``"status=429 retry_after=2"`` → Directives. Raises UnknownDirective."""
    said: dict[str, Any] = {}
    for item in text.split():
        name, _, value = item.partition("=")
        parser = PARSERS.get(name)
        if parser is None:
            raise UnknownDirective(f"unknown sandbox directive {name!r}; known: {', '.join(sorted(PARSERS))}")
        try:
            said[name] = parser(value)
        except ValueError as error:
            raise UnknownDirective(f"sandbox directive {name}={value!r}: {error}") from error
    return Directives(**said)


def read_markers(text: str) -> tuple[Directives, str]:
    """The directives of all markers in a text, and the text without them. Raises UnknownDirective."""
    found = NOTHING
    for inside in MARKER.findall(text):
        found = parse_directives(inside).over(found)
    return found, MARKER.sub("", text).strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Directives for the next ``times`` requests whose method and path match (shell patterns)."""

    directives: Directives
    times: int = 1
    path: str = "*"
    method: str = "*"

    def matches(self, method: str, path: str) -> bool:
        return fnmatchcase(method, self.method) and fnmatchcase(path, self.path)


class Faults:
    """What is to go wrong next: pending faults in the order they were added, and how often a marked text was seen."""

    def __init__(self) -> None:
        self._pending: list[Fault] = []
        self._seen: OrderedDict[tuple[str, str], int] = OrderedDict()
        #: Every request waits for it first, if there is one: set by whoever has the sandbox in the same process.
        self.go_on: asyncio.Event | None = None

    @property
    def pending(self) -> tuple[Fault, ...]:
        return tuple(self._pending)

    def add(self, fault: Fault) -> None:
        """Raises ValueError when too many are pending."""
        if len(self._pending) >= MAX_PENDING_FAULTS:
            raise ValueError(f"{MAX_PENDING_FAULTS} faults are pending already")
        self._pending.append(fault)

    def clear(self) -> None:
        self._pending.clear()
        self._seen.clear()

    def take(self, method: str, path: str) -> Directives:
        """The first pending fault for this request, used up once; NOTHING when there is none."""
        for index, fault in enumerate(self._pending):
            if fault.matches(method, path):
                if fault.times > 1:
                    self._pending[index] = replace(fault, times=fault.times - 1)
                else:
                    del self._pending[index]
                return fault.directives
        return NOTHING

    def applicable(self, directives: Directives, *, provider: str, text: str) -> Directives:
        """A marker's directives, or NOTHING when ``only`` names another provider or ``times`` are over. Counts."""
        if directives.only is not None and directives.only != provider:
            return NOTHING
        if directives.times is None:
            return directives
        key = (provider, text)
        count = self._seen[key] = self._seen.get(key, 0) + 1
        self._seen.move_to_end(key)
        if len(self._seen) > MAX_COUNTED_TEXTS:
            self._seen.popitem(last=False)
        return directives if count <= directives.times else NOTHING
