"""Looks at a passing chat stream for what the books need, without parsing it.

Mostly a chunk is the one before it but for its text: then it takes two comparisons to know how long that is, and
nothing of it is kept. Other chunks are kept; a few at a time are looked through for their text (with ``bytes.find``:
less than parsing one event would take), and the last few stay. Usage, errors and the protocol's end all stand at the
end of a stream, so that they are looked for once, when they are asked for. What makes this sound: inside a JSON string
a quote is always escaped, so that ``"usage":`` in the bytes can only be a member's name.
"""

from __future__ import annotations

from typing import Final

from bitmesh_proxy.calls import Usage
from bitmesh_proxy.dialects.openai_usage import find_id, find_usage, parse_usage_with_cost, value_start
from bitmesh_proxy.dialects.provider_errors import error_message, read_redacted
from bitmesh_proxy.dialects.sse import EventCutter, Overflow

#: What is kept of an incomplete event. Usage stands last in its event, so that the end is what matters.
_MAX_TAIL_BYTES: Final = 64 * 1024

#: The end of a stream: finish reason, usage and ``[DONE]`` may come in a chunk each, and a comment after them.
_RECENT_CHUNKS: Final = 5
_MAX_RECENT_CHUNK_BYTES: Final = 4096
#: As many are kept before they are looked through, so that short streams never are: to learn how chunks look takes as
#: long as ten of them do later. More would cost each open stream memory, and save little.
_MAX_UNCOUNTED: Final = 6

#: How chunks of whole events end, if no text is torn in them.
_PLAIN_ENDS: Final = (b"}\n\n", b"[DONE]\n\n")

#: How most streams end.
_DONE: Final = b"\ndata: [DONE]\n\n"

_QUOTE: Final = 0x22
_BACKSLASH: Final = 0x5C
_RETURN: Final = 0x0D

#: What stands before a text; the last two before what a function and a custom tool are given.
_Keys = tuple[bytes, bytes, bytes, bytes, bytes]
_COMPACT: Final[_Keys] = (b'"content":"', b'"reasoning_content":"', b'"reasoning":"', b'"arguments":"', b'"input":"')
_SPACED: Final[_Keys] = (
    b'"content": "',
    b'"reasoning_content": "',
    b'"reasoning": "',
    b'"arguments": "',
    b'"input": "',
)


class OpenAIChatMeter:
    """The ``StreamMeter`` of OpenAI's chat completions.

    ``output_characters`` is a measure, not a count: the bytes of text, reasoning and tool arguments as they stand in
    the JSON (an event that has text counts only that). A letter beyond ASCII counts as its UTF-8 bytes and an escape
    as it is written; for an estimate of tokens that errs less than characters do, since such letters take more tokens.

    The properties look through the end of the stream each time: ask after the last chunk, not with every one.
    """

    __slots__ = (
        "_after",
        "_around_bytes",
        "_before",
        "_characters",
        "_common",
        "_cutter",
        "_first",
        "_is_cut",
        "_is_plain",
        "_joined",
        "_joined_at",
        "_keys",
        "_recent",
        "_uncounted_from",
    )

    def __init__(self) -> None:
        self._characters = 0
        #: Made when it is needed: nearly all streams come in whole events.
        self._cutter: EventCutter | None = None
        self._is_cut = False
        #: Nothing of the stream is held in the cutter, and how the server writes is known.
        self._is_plain = False
        self._keys: _Keys | None = None
        self._first = b""
        #: The last chunks. A list, because a deque takes 600 bytes more, and there is one for every open stream.
        self._recent: list[bytes] = []
        #: From here on they have not been looked through; they are not large, and no text is torn in them.
        self._uncounted_from = 0
        #: What stands before the text of the last chunk and from its end on, if it has one text and nothing else that
        #: is measured, or asked for at the end: then everything has been looked through.
        self._before = self._after = b""
        self._around_bytes = 0
        #: So many chunks came since that were the same but for their texts.
        self._common = 0
        #: The last of them as one, when there were so many.
        self._joined = b""
        self._joined_at = 0

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the stream, cut anywhere."""
        before = self._before
        if before:
            text = data.removeprefix(before).removesuffix(self._after)
            size = len(text)
            if (
                len(data) - size == self._around_bytes  # it had both
                and _QUOTE not in text
                and (_BACKSLASH not in text or not text.endswith(b"\\"))
            ):
                self._characters += size
                self._common += 1
                return
            self._expect_others()
        if self._is_plain and len(data) <= _MAX_RECENT_CHUNK_BYTES and data.endswith(_PLAIN_ENDS):
            recent = self._recent
            recent.append(data)
            if len(recent) - self._uncounted_from >= _MAX_UNCOUNTED:
                self._count()
        elif (
            self._keys is None
            and self._cutter is None  # so that there may be a byte order mark
            and len(data) <= _MAX_RECENT_CHUNK_BYTES
            and _RETURN not in data
            and data.startswith(b"data:")
            and data.endswith(_PLAIN_ENDS)
        ):
            self._learn(data)
            self._is_plain = True
            self._recent.append(data)
        else:
            self._count()
            self._look(data)

    def _look(self, data: bytes) -> None:
        """``feed`` for whatever may come, when all before it has been counted."""
        whole = data
        self._joined_at = 0
        is_first = self._keys is None and self._cutter is None  # so that there may be a byte order mark
        if self._is_cut or is_first or not data.endswith(b"\n\n"):
            cutter = self._cutter
            if cutter is None:
                cutter = EventCutter(_MAX_TAIL_BYTES, overflow=Overflow.KEEP_END, has_begun=not is_first)
                self._cutter = cutter
            whole = cutter.cut(data)
            self._is_cut = cutter.is_holding
            self._is_plain = not self._is_cut and self._keys is not None
            if not whole:
                return
        keys = self._keys
        if keys is None:
            keys = self._open(whole)
            if keys is None:
                return
            self._is_plain = not self._is_cut
        recent = self._recent
        recent.append(whole if len(whole) <= _MAX_RECENT_CHUNK_BYTES else whole[-_MAX_RECENT_CHUNK_BYTES:])
        if len(recent) > _RECENT_CHUNKS:
            del recent[0]
        self._uncounted_from = len(recent)
        self._characters += _characters_of(whole, keys)

    def _count(self) -> None:
        """Look through the chunks that came since the last time."""
        recent, at, keys = self._recent, self._uncounted_from, self._keys
        uncounted = recent[at:]
        if not uncounted:
            return
        assert keys is not None, "without them nothing is kept uncounted"
        characters = _plain_text_bytes(b"".join(uncounted), keys)
        if characters < 0:
            characters = sum([_characters_of(whole, keys) for whole in uncounted])
        elif len(uncounted) > 1:  # the very first one, if it is asked for so early, is seldom like those that follow
            self._expect_such(uncounted[-1], keys[0])
        self._characters += characters
        del recent[:-_RECENT_CHUNKS]
        self._uncounted_from = len(recent)
        self._joined, self._joined_at = b"", 0

    def _expect_such(self, chunk: bytes, key: bytes) -> None:
        """The next chunks may be as this one, the last, whose text ``_plain_text_bytes`` has measured."""
        before, _, rest = chunk.partition(key)
        text, quote, after = rest.partition(b'"')
        # One text. (What is behind it is no part of a key then, whatever the text is.)
        if after.startswith((b"}", b",")) and after.find(key) < 0 and find_usage(chunk) is None:
            self._before, self._after = before + key, quote + after
            self._around_bytes = len(chunk) - len(text)

    def _expect_others(self) -> None:
        """Another one has come. Those before it are kept as far as all others are, by one that says the same."""
        recent = self._recent
        recent += [recent[-1]] * min(self._common, _RECENT_CHUNKS)
        del recent[:-_RECENT_CHUNKS]
        self._uncounted_from = len(recent)
        self._before = self._after = b""
        self._common = self._joined_at = 0

    @property
    def output_characters(self) -> int:
        """See the class."""
        self._count()
        return self._characters

    @property
    def usage(self) -> Usage | None:
        """The provider's figures, if they have come."""
        return None if self._common >= _RECENT_CHUNKS else find_usage(self._end())

    @property
    def is_complete(self) -> bool:
        """Has ``[DONE]`` come, or, since some servers leave that out, a finish reason?"""
        end = self._end()
        return end.endswith(_DONE) or _is_done(end) or _has_text_member(end, b'"finish_reason"')

    @property
    def error(self) -> str | None:
        """The message of an error that the provider reported inside the stream."""
        end = self._end()
        at = end.find(b'"error"')
        return None if at < 0 else _error_at(end, at)

    @property
    def provider_request_id(self) -> str | None:
        """The id in the first event."""
        return find_id(self._first)

    @property
    def is_in_event(self) -> bool:
        """Does what has come end within an event?"""
        return self._is_cut

    def _end(self) -> bytes:
        """The last chunks as one, made once for all that is asked after the last of them."""
        recent = self._recent
        if self._common:  # of those the one before them says all
            return b"".join(recent[min(self._common, _RECENT_CHUNKS - 1) - _RECENT_CHUNKS :])
        if self._joined_at != len(recent):
            self._joined = recent[0] if len(recent) == 1 else b"".join(recent[-_RECENT_CHUNKS:])
            self._joined_at = len(recent)
        return self._joined

    def _open(self, whole: bytes) -> _Keys | None:
        """Learn from the first event with data how this server writes; comments may come before it."""
        if whole.startswith(b":") and whole.find(b"data:") < 0:
            return None
        return self._learn(whole)

    def _learn(self, whole: bytes) -> _Keys:
        # (``in`` takes bytes for a number first, in vain, which costs more than to search them.)
        self._first = whole[:1024]
        self._keys = keys = _SPACED if whole.find(b'": "') >= 0 else _COMPACT
        return keys


class CostReadingMeter(OpenAIChatMeter):
    """The same where the provider's figures say what the call cost."""

    __slots__ = ()

    @property
    def usage(self) -> Usage | None:
        """See ``OpenAIChatMeter``."""
        return None if self._common >= _RECENT_CHUNKS else find_usage(self._end(), parse_usage_with_cost)


def _plain_text_bytes(events: bytes, keys: _Keys) -> int:
    """The sum of ``_characters_of``, if no event has any other text than its first key's, and none a quote in it, as in
    nearly all streams: then it does not matter how they came. Negative where that takes a closer look."""
    # One byte is searched for many times faster than two.
    if _BACKSLASH in events and events.find(b'\\"') >= 0:
        return -1
    if events.find(keys[3]) >= 0 or events.find(keys[4]) >= 0:
        return -1
    if events.find(b'"reasoning') >= 0 and (events.find(keys[1]) >= 0 or events.find(keys[2]) >= 0):
        return -1
    lengths = [text.find(b'"') for text in events.split(keys[0])[1:]]
    return -1 if -1 in lengths else sum(lengths)


def _characters_of(whole: bytes, keys: _Keys) -> int:
    """What whole events that came together measure."""
    characters = _text_bytes(whole, keys[0])
    if not characters or whole.find(b"\n\n") != len(whole) - 2:
        # Some servers send the same reasoning under both names.
        characters += _text_bytes(whole, keys[1]) or _text_bytes(whole, keys[2])
        characters += _text_bytes(whole, keys[3]) + _text_bytes(whole, keys[4])
    return characters


def _text_bytes(whole: bytes, key: bytes) -> int:
    total = 0
    at = whole.find(key)
    while at >= 0:
        start = at + len(key)
        end = whole.find(b'"', start)
        while end > start and whole[end - 1] == _BACKSLASH and _is_escaped(whole, end):
            end = whole.find(b'"', end + 1)
        if end < 0:
            return total
        total += end - start
        at = whole.find(key, end)
    return total


def _is_escaped(whole: bytes, at: int) -> bool:
    """Is the byte at ``at`` preceded by an odd number of backslashes?"""
    before = at - 1
    while before >= 0 and whole[before] == _BACKSLASH:
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


def _error_at(end: bytes, at: int) -> str | None:
    """The message of an error event, at one of the names of members or behind; ``None`` if each is a member of
    something else, or null."""
    while at >= 0:
        start = value_start(end, at + 7)
        if end[start : start + 1] in (b"{", b'"'):
            line_end = end.find(b"\n", at)
            line = end[end.rfind(b"\n", 0, at) + 1 : line_end if line_end >= 0 else len(end)]
            event = read_redacted(line.partition(b":")[2])
            if isinstance(event, dict) and event.get("error"):
                return error_message(event) or "The provider reported an error."
        at = end.find(b'"error"', at + 7)
    return None
