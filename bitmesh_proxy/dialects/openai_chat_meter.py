"""Looks at a passing chat stream for what the books need, without parsing it.

While the stream runs, a chunk costs one look for its text (a few ``bytes.find``: less than parsing one event would
take) and the last few chunks are kept. Usage, errors and the protocol's end all stand at the end of a stream, so that
they are looked for once, when they are asked for. What makes this sound: inside a JSON string a quote is always
escaped, so that ``"usage":`` in the bytes can only be a member's name.
"""

from __future__ import annotations

from typing import Final

import orjson

from bitmesh_proxy.calls import Usage
from bitmesh_proxy.dialects.openai_usage import find_id, find_usage, value_start
from bitmesh_proxy.dialects.provider_errors import error_message, redact
from bitmesh_proxy.dialects.sse import EventCutter, Overflow

#: What is kept of an incomplete event. Usage stands last in its event, so that the end is what matters.
_MAX_TAIL_BYTES: Final = 64 * 1024

#: The end of a stream: finish reason, usage and ``[DONE]`` may come in a chunk each, and a comment after them.
_RECENT_CHUNKS: Final = 5
_MAX_RECENT_CHUNK_BYTES: Final = 4096

_COMPACT: Final = (b'"content":"', b'"reasoning_content":"', b'"reasoning":"', b'"arguments":"')
_SPACED: Final = (b'"content": "', b'"reasoning_content": "', b'"reasoning": "', b'"arguments": "')


class OpenAIChatMeter:
    """The ``StreamMeter`` of OpenAI's chat completions.

    ``output_characters`` is a measure, not a count: the bytes of text, reasoning and tool arguments as they stand in
    the JSON (an event that has text counts only that). A letter beyond ASCII counts as its UTF-8 bytes and an escape
    as it is written; for an estimate of tokens that errs less than characters do, since such letters take more tokens.

    The properties look through the end of the stream each time: ask after the last chunk, not with every one.
    """

    __slots__ = ("_cost_field", "_cutter", "_first", "_is_cut", "_keys", "_recent", "output_characters")

    def __init__(self, *, cost_field: str | None = None) -> None:
        self.output_characters = 0
        self._cost_field = cost_field
        self._cutter = EventCutter(_MAX_TAIL_BYTES, overflow=Overflow.KEEP_END)
        self._is_cut = True  # also at the start, where the cutter has to see a byte order mark
        self._keys: tuple[bytes, bytes, bytes, bytes] | None = None
        self._first = b""
        #: The last chunks. A list, because a deque takes 600 bytes more, and there is one for every open stream.
        self._recent: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the stream, cut anywhere."""
        keys = self._keys
        if keys is not None and not self._is_cut and data.endswith(b"\n\n") and len(data) <= _MAX_RECENT_CHUNK_BYTES:
            # One event with one text, as nearly all are: what `_look` would count, in 1.5 us instead of 2.
            key = keys[0]
            start = data.find(key) + len(key)
            end = data.find(b'"', start)
            if (
                end > start >= len(key)
                and data[end - 1] != 0x5C
                and data.find(b"\n\n") == len(data) - 2
                and data.find(key, end) < 0
            ):
                recent = self._recent
                recent.append(data)
                if len(recent) > _RECENT_CHUNKS:
                    del recent[0]
                self.output_characters += end - start
                return
        self._look(data)

    def _look(self, data: bytes) -> None:
        """``feed`` for whatever may come."""
        whole = data
        if self._is_cut or not data.endswith(b"\n\n"):
            whole = self._cutter.cut(data)
            self._is_cut = self._cutter.is_holding
            if not whole:
                return
        keys = self._keys
        if keys is None:
            keys = self._open(whole)
            if keys is None:
                return
        recent = self._recent
        recent.append(whole if len(whole) <= _MAX_RECENT_CHUNK_BYTES else whole[-_MAX_RECENT_CHUNK_BYTES:])
        if len(recent) > _RECENT_CHUNKS:
            del recent[0]
        characters = _text_bytes(whole, keys[0])
        if not characters or whole.find(b"\n\n") != len(whole) - 2:
            # Some servers send the same reasoning under both names.
            characters += _text_bytes(whole, keys[1]) or _text_bytes(whole, keys[2])
            characters += _text_bytes(whole, keys[3])
        self.output_characters += characters

    @property
    def usage(self) -> Usage | None:
        """The provider's figures, if they have come."""
        return find_usage(b"".join(self._recent), cost_field=self._cost_field)

    @property
    def is_complete(self) -> bool:
        """Has ``[DONE]`` come, or, since some servers leave that out, a finish reason?"""
        if not self._recent:
            return False
        end = b"".join(self._recent)
        return _is_done(end) or _has_text_member(end, b'"finish_reason"')

    @property
    def error(self) -> str | None:
        """The message of an error that the provider reported inside the stream."""
        return _error_in(b"".join(self._recent))

    @property
    def provider_request_id(self) -> str | None:
        """The id in the first event."""
        return find_id(self._first)

    def _open(self, whole: bytes) -> tuple[bytes, bytes, bytes, bytes] | None:
        """Learn from the first event with data how this server writes; comments may come before it."""
        if whole.startswith(b":") and b"data:" not in whole:
            return None
        self._first = whole[:1024]
        self._keys = _SPACED if b'": "' in whole else _COMPACT
        return self._keys


def _text_bytes(whole: bytes, key: bytes) -> int:
    total = 0
    at = whole.find(key)
    while at >= 0:
        start = at + len(key)
        end = whole.find(b'"', start)
        while end > start and whole[end - 1] == 0x5C and _is_escaped(whole, end):
            end = whole.find(b'"', end + 1)
        if end < 0:
            return total
        total += end - start
        at = whole.find(key, end)
    return total


def _is_escaped(whole: bytes, at: int) -> bool:
    """Is the byte at ``at`` preceded by an odd number of backslashes?"""
    before = at - 1
    while before >= 0 and whole[before] == 0x5C:
        before -= 1
    return (at - 1 - before) % 2 == 1


def _is_done(end: bytes) -> bool:
    at = end.rfind(b"[DONE]")
    if at < 0:
        return False
    # Inside JSON there is no line end, so that a line of its own cannot be the model's text.
    line = end[end.rfind(b"\n", 0, at) + 1 : at]
    return line in (b"data: ", b"data:")


def _has_text_member(end: bytes, name: bytes) -> bool:
    at = end.rfind(name)
    while at >= 0:
        start = value_start(end, at + len(name))
        if end[start : start + 1] == b'"':
            return True
        at = end.rfind(name, 0, at)
    return False


def _error_in(end: bytes) -> str | None:
    """The message of an error event; ``None`` if the word is a member of something else, or null."""
    at = end.find(b'"error"')
    while at >= 0:
        start = value_start(end, at + 7)
        if end[start : start + 1] in (b"{", b'"'):
            line_end = end.find(b"\n", at)
            line = end[end.rfind(b"\n", 0, at) + 1 : line_end if line_end >= 0 else len(end)]
            try:
                event = orjson.loads(redact(line.partition(b":")[2]))
            except orjson.JSONDecodeError:
                event = None
            if isinstance(event, dict) and event.get("error"):
                return error_message(event) or "The provider reported an error."
        at = end.find(b'"error"', at + 7)
    return None
