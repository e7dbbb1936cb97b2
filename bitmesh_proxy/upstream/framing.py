"""Where the body of a provider's answer ends: its declared length, its chunks, or the end of the connection. Pure.

Each framing takes what was read and gives what of it is body, at once and without keeping it; bytes after the end go
into ``rest``. A read that is nothing but whole chunks is given back as it is too, so that whoever writes chunks need
not frame it again. Everything that RFC 9112 calls malformed is refused, because two readers that disagree on an end are
how one caller gets another one's answer. Trailers are read past. Source: RFC 9112, sections 6 and 7.
"""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, Final, Protocol

#: A chunk's size with its extensions. Nobody needs more.
MAX_SIZE_LINE_BYTES: Final = 256
MAX_TRAILER_BYTES: Final = 8192
#: 2⁶⁰ bytes: more hexadecimal digits stand for nothing real.
MAX_SIZE_DIGITS: Final = 15

#: Of chunks up to this length it is remembered how they look.
_MAX_KEPT_LENGTH: Final = 4096
#: How so many bytes begin that are one whole chunk, and how many of them are its body, for lengths that have been seen.
CHUNKS: Final[dict[int, tuple[bytes, int]]] = {}
CHUNK_END: Final = b"\r\n"

#: ``Framing.state`` where no chunk has begun that is not over.
BETWEEN_CHUNKS: Final = 0
_NO_CHUNKS: Final = -1

#: Sizes that have been seen, as they were written. Never one that is no size and nothing else, nor the last chunk's.
_SIZES: Final[dict[bytes, int]] = {}
_MAX_SIZES: Final = 4096
#: A read above this size is no small chunks.
_MAX_SPLIT_BYTES: Final = 64 * 1024

#: The last chunk, without trailers, and nothing behind it.
_LAST_LINES: Final = [b"0", b"", b""]

_HEX_DIGITS: Final = b"0123456789abcdefABCDEF"


class FramingError(ValueError):
    """The body is not framed as HTTP says."""


class Framing(Protocol):
    """How a body's end is known. ``is_done``: it has been reached; ``rest`` came after it.

    While ``state`` is BETWEEN_CHUNKS, a read that begins as CHUNKS has it for its length, and ends with CHUNK_END, is a
    single whole chunk: whoever sees that may take the body out of it and leave ``feed`` alone.
    """

    is_done: bool
    rest: bytes

    @property
    def state(self) -> int: ...

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """The body in ``data``; and ``data`` itself, if it is whole chunks without extensions and not the last one.

        Raises FramingError. Not to be called after the end.
        """

    def ends_here(self) -> bool:
        """The connection has ended. Was that the end of the body?"""


class NoBody:
    """An answer without one: to HEAD, 204, 304, or of length 0."""

    __slots__ = ("is_done", "rest")

    state: ClassVar[int] = _NO_CHUNKS

    def __init__(self) -> None:
        self.is_done = True
        self.rest = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Whatever comes is not ours."""
        self.rest += data
        return b"", None

    def ends_here(self) -> bool:
        """It ended before it began."""
        return True


class SizedBody:
    """A body of a declared length, in bytes."""

    __slots__ = ("_left_bytes", "is_done", "rest")

    state: ClassVar[int] = _NO_CHUNKS

    def __init__(self, length_bytes: int) -> None:
        self._left_bytes = length_bytes
        self.is_done = length_bytes == 0
        self.rest = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """See Framing."""
        size = len(data)
        if size < self._left_bytes:
            self._left_bytes -= size
            return data, None
        self.is_done = True
        if size == self._left_bytes:
            return data, None
        self.rest = data[self._left_bytes :]
        return data[: self._left_bytes], None

    def ends_here(self) -> bool:
        """Only if it was whole."""
        return self.is_done


class UntilClosed:
    """A body that ends with the connection."""

    __slots__ = ("is_done", "rest")

    state: ClassVar[int] = _NO_CHUNKS

    def __init__(self) -> None:
        self.is_done = False
        self.rest = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Everything is body."""
        return data, None

    def ends_here(self) -> bool:
        """Yes: there is no other way to tell."""
        self.is_done = True
        return True


_SIZE, _SIZE_CUT, _DATA, _DATA_END, _TRAILERS = range(BETWEEN_CHUNKS, 5)


class ChunkedBody:
    """A body in chunks. What was cut in the middle of a line is kept, no byte of the body is."""

    __slots__ = ("_left_bytes", "_line", "_trailer_bytes", "is_done", "rest", "state")

    def __init__(self) -> None:
        self.state = _SIZE
        self._left_bytes = 0
        self._line = b""
        self._trailer_bytes = 0
        self.is_done = False
        self.rest = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """See Framing."""
        if self.state == _SIZE:
            # What a stream mostly is: one chunk, whole, in one read. If it is, its length says how it begins.
            beginning, size = CHUNKS.get(len(data)) or _whole_chunk(len(data))
            if data.startswith(beginning) and data.endswith(CHUNK_END):
                return data[len(beginning) : len(beginning) + size], data
        elif self._line:
            data = self._line + data
            self._line = b""
        return self._walk(data)

    def _walk(self, data: bytes) -> tuple[bytes, bytes | None]:
        pieces: list[bytes] = []
        at, size = 0, len(data)
        is_framed = self.state == _SIZE
        if is_framed and size <= _MAX_SPLIT_BYTES and data[-2:] == b"\r\n":
            # What a stream is otherwise: several chunks, whole, for it is faster than we are. If every second line is
            # as long as the one before it says, that is all there is (a third of what it takes one by one), but for
            # the last chunk, which may stand behind them.
            lines = data.split(b"\r\n")
            is_last = lines[-3:] == _LAST_LINES
            if is_last:
                lines[-3:] = (b"",)  # as if it were not there
            bodies = lines[1::2]
            line, size_of = 0, _SIZES.get
            for body in bodies:
                if size_of(lines[line]) != len(body):
                    break
                line += 2
            else:
                self.is_done = is_last
                return b"".join(bodies), None if is_last else data
        while at < size and not self.is_done:
            state = self.state
            if state == _DATA:
                end = at + self._left_bytes
                if end > size:
                    self._left_bytes = end - size
                    end = size
                else:
                    self._left_bytes = 0
                    self.state = _DATA_END
                pieces.append(data[at:end])
                at = end
            elif state == _DATA_END:
                if not b"\r\n".startswith(data[at : at + 2]):
                    raise FramingError("a chunk is longer than its size")
                if size - at < 2:
                    self._line = data[at:]
                    break
                at += 2
                self.state = _SIZE
            else:
                end = data.find(b"\r\n", at)
                if end < 0:
                    self._keep_line(data[at:])
                    break
                is_framed = self._take_line(data, at, end) and is_framed
                at = end + 2
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return body, data if is_framed and self.state == _SIZE else None

    def ends_here(self) -> bool:
        """Only after the last chunk and the trailers."""
        return self.is_done

    def _keep_line(self, line: bytes) -> None:
        bound = MAX_TRAILER_BYTES - self._trailer_bytes if self.state == _TRAILERS else MAX_SIZE_LINE_BYTES
        if len(line) > bound:
            raise FramingError("a chunk's size, or the trailers, are too long")
        self._line = line
        if self.state == _SIZE:
            self.state = _SIZE_CUT

    def _take_line(self, data: bytes, at: int, end: int) -> bool:
        """A whole line, without its end: a chunk's size, or a trailer; the empty one ends it all.

        Gives whether it was a size and nothing else.
        """
        if self.state == _TRAILERS:
            if end == at:
                self.is_done = True
                self.rest = data[end + 2 :]
            else:
                self._trailer_bytes += end - at
                if self._trailer_bytes > MAX_TRAILER_BYTES:
                    raise FramingError("the trailers are too long")
            return False
        line = data[at:end]
        if len(line) > MAX_SIZE_LINE_BYTES:
            raise FramingError("a chunk's size is too long")
        self._left_bytes = size = chunk_size(line)
        self.state = _DATA if size else _TRAILERS
        is_plain = line.isalnum()
        if is_plain and size and len(_SIZES) < _MAX_SIZES:
            _SIZES[line] = size
        return is_plain


@lru_cache(maxsize=4096)
def chunk_size(line: bytes) -> int:
    """``1a`` and ``1a;name=value``. Digits only: ``int`` alone would also take signs, spaces and underscores."""
    digits = line.partition(b";")[0].rstrip(b" \t")
    if not digits or len(digits) > MAX_SIZE_DIGITS or digits.translate(None, _HEX_DIGITS):
        raise FramingError("a chunk's size is no hexadecimal number")
    return int(digits, 16)


def _whole_chunk(length: int) -> tuple[bytes, int]:
    """How ``length`` bytes begin that are one chunk: with its body's size, in as few lower-case digits as it takes; and
    that size.

    Kept for the lengths that events have. No body is empty: that would be the last chunk.
    """
    for digits in range(1, MAX_SIZE_DIGITS):
        size = length - digits - 4
        if size > 0 and len(b"%x" % size) == digits:
            break
    else:
        return bytes(length + 1), 0  # which nothing of that length begins with
    chunk = b"%x\r\n" % size, size
    if length <= _MAX_KEPT_LENGTH:
        CHUNKS[length] = chunk
    return chunk
