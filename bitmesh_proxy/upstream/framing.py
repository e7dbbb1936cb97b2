"""Where the body of a provider's answer ends: its declared length, its chunks, or the end of the connection. Pure.

Each framing takes what was read and gives what of it is body, at once and without keeping it; bytes after the end go
into ``rest``. Everything that RFC 9112 calls malformed is refused, because two readers that disagree on an end are how
one caller gets another one's answer. Trailers are read past. Source: RFC 9112, sections 6 and 7.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Protocol

#: A chunk's size with its extensions. Nobody needs more.
MAX_SIZE_LINE_BYTES: Final = 256
MAX_TRAILER_BYTES: Final = 8192
#: 2⁶⁰ bytes: more hexadecimal digits stand for nothing real.
MAX_SIZE_DIGITS: Final = 15

_HEX_DIGITS: Final = b"0123456789abcdefABCDEF"


class FramingError(ValueError):
    """The body is not framed as HTTP says."""


class Framing(Protocol):
    """How a body's end is known. ``is_done``: it has been reached; ``rest`` came after it."""

    is_done: bool
    rest: bytes

    def feed(self, data: bytes) -> bytes:
        """The body in ``data``. Raises FramingError. Not to be called after the end."""

    def ends_here(self) -> bool:
        """The connection has ended. Was that the end of the body?"""


class NoBody:
    """An answer without one: to HEAD, 204, 304, or of length 0."""

    __slots__ = ("is_done", "rest")

    def __init__(self) -> None:
        self.is_done = True
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Whatever comes is not ours."""
        self.rest += data
        return b""

    def ends_here(self) -> bool:
        """It ended before it began."""
        return True


class SizedBody:
    """A body of a declared length, in bytes."""

    __slots__ = ("_left_bytes", "is_done", "rest")

    def __init__(self, length_bytes: int) -> None:
        self._left_bytes = length_bytes
        self.is_done = length_bytes == 0
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """See Framing."""
        size = len(data)
        if size < self._left_bytes:
            self._left_bytes -= size
            return data
        self.is_done = True
        if size == self._left_bytes:
            return data
        self.rest = data[self._left_bytes :]
        return data[: self._left_bytes]

    def ends_here(self) -> bool:
        """Only if it was whole."""
        return self.is_done


class UntilClosed:
    """A body that ends with the connection."""

    __slots__ = ("is_done", "rest")

    def __init__(self) -> None:
        self.is_done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Everything is body."""
        return data

    def ends_here(self) -> bool:
        """Yes: there is no other way to tell."""
        self.is_done = True
        return True


_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)


class ChunkedBody:
    """A body in chunks. What was cut in the middle of a line is kept, no byte of the body is."""

    __slots__ = ("_left_bytes", "_line", "_state", "_trailer_bytes", "is_done", "rest")

    def __init__(self) -> None:
        self._state = _SIZE
        self._left_bytes = 0
        self._line = b""
        self._trailer_bytes = 0
        self.is_done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """See Framing."""
        if self._line:
            data = self._line + data
            self._line = b""
        elif self._state == _SIZE:
            # What a stream mostly is: one chunk, whole, in one read.
            start = data.find(b"\r\n", 0, MAX_SIZE_DIGITS + 2) + 2
            if start > 2 and data.endswith(b"\r\n") and chunk_size(data[: start - 2]) == len(data) - start - 2 > 0:
                return data[start:-2]
        pieces: list[bytes] = []
        at, size = 0, len(data)
        while at < size and not self.is_done:
            state = self._state
            if state == _DATA:
                end = at + self._left_bytes
                if end > size:
                    self._left_bytes = end - size
                    end = size
                else:
                    self._left_bytes = 0
                    self._state = _DATA_END
                pieces.append(data[at:end])
                at = end
            elif state == _DATA_END:
                if not b"\r\n".startswith(data[at : at + 2]):
                    raise FramingError("a chunk is longer than its size")
                if size - at < 2:
                    self._line = data[at:]
                    break
                at += 2
                self._state = _SIZE
            else:
                end = data.find(b"\r\n", at)
                if end < 0:
                    self._keep_line(data[at:])
                    break
                self._take_line(data, at, end)
                at = end + 2
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def ends_here(self) -> bool:
        """Only after the last chunk and the trailers."""
        return self.is_done

    def _keep_line(self, line: bytes) -> None:
        bound = MAX_SIZE_LINE_BYTES if self._state == _SIZE else MAX_TRAILER_BYTES - self._trailer_bytes
        if len(line) > bound:
            raise FramingError("a chunk's size, or the trailers, are too long")
        self._line = line

    def _take_line(self, data: bytes, at: int, end: int) -> None:
        """A whole line, without its end: a chunk's size, or a trailer; the empty one ends it all."""
        if self._state == _SIZE:
            size = chunk_size(data[at:end])
            self._left_bytes = size
            self._state = _DATA if size else _TRAILERS
        elif end == at:
            self.is_done = True
            self.rest = data[end + 2 :]
        else:
            self._trailer_bytes += end - at
            if self._trailer_bytes > MAX_TRAILER_BYTES:
                raise FramingError("the trailers are too long")


@lru_cache(maxsize=4096)
def chunk_size(line: bytes) -> int:
    """``1a`` and ``1a;name=value``. Digits only: ``int`` alone would also take signs, spaces and underscores."""
    digits = line.partition(b";")[0].rstrip(b" \t")
    if not digits or len(digits) > MAX_SIZE_DIGITS or digits.translate(None, _HEX_DIGITS):
        raise FramingError("a chunk's size is no hexadecimal number")
    return int(digits, 16)
