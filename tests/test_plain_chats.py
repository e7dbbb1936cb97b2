"""Plain conversations, and answers, are read where they are so to the letter; requests are as an offer wants them."""

from __future__ import annotations

from contextlib import suppress

import orjson
import pytest
from msgspec import UNSET

from bitmesh_proxy.plain_chats import (
    NOT_PLAIN,
    PLAIN_OPTIONS,
    PlainAnswer,
    PlainChat,
    PlainMessage,
    PlainUsage,
    PlainWriter,
    read_plain_answer,
    read_plain_chat,
)

MESSAGES = b'[{"role":"system","content":"Be brief."},{"content":"\xc3\xa9 \\u00e9 \\n","role":"user"}]'
AS_IT_CAME = PlainWriter((), True)


def read(more: bytes = b"", messages: bytes = MESSAGES) -> PlainChat:
    return read_plain_chat(b'{"model":"m","messages":' + messages + more + b"}")


def test_roles_texts_and_figures_are_plain() -> None:
    chat = read(b', "temperature": 0.70, "max_tokens": 64, "seed": -1, "user": "u", "stream": false')
    assert chat.messages == [PlainMessage("system", "Be brief."), PlainMessage("user", "é é \n")]
    assert (chat.model, chat.temperature, chat.max_tokens, chat.seed, chat.user) == ("m", 0.7, 64, -1, "u")
    assert (chat.stream, chat.stream_options, chat.test, chat.top_p) == (False, UNSET, UNSET, UNSET)


@pytest.mark.parametrize(
    "more",
    [
        b',"n":1',
        b',"tools":[]',
        b',"stop":"x"',
        b',"max_tokens":null',
        b',"max_tokens":0',
        b',"max_tokens":64.0',
        b',"max_tokens":"64"',
        b',"max_tokens":9223372036854775808',
        b',"max_tokens":true',
        b',"temperature":2.5',
        b',"temperature":-0.1',
        b',"temperature":true',
        b',"temperature":NaN',
        b',"temperature":1e400',
        b',"top_p":1.01',
        b',"presence_penalty":-2.5',
        b',"repetition_penalty":-1',
        b',"seed":1.5',
        b',"seed":9223372036854775808',
        b',"user":5',
        b',"user":"\xff"',
        b',"user":"\\ud800"',
        b',"stream":1',
        b',"stream":null',
        b',"stream_options":null',
        b',"stream_options":{"include_usage":1}',
        b',"stream_options":{"other":true}',
        b',"\xff":1',
        b",",
        b"}",
    ],
)
def test_one_odd_thing_is_enough(more: bytes) -> None:
    with pytest.raises(NOT_PLAIN):
        read(more)


@pytest.mark.parametrize(
    "messages",
    [
        b"[]",
        b"{}",
        b"null",
        b'["x"]',
        b"[{}]",
        b'[{"role":"user"}]',
        b'[{"content":"x"}]',
        b'[{"role":"developer","content":"x"}]',
        b'[{"role":"user","content":null}]',
        b'[{"role":"user","content":[{"type":"text","text":"x"}]}]',
        b'[{"role":"user","content":"x","name":"n"}]',
        b'[{"role":"user","content":"\xed\xa0\x80"}]',
        b'[{"role":"user","content":"\xc0\x80"}]',
        b'[{"role":"user","content":"\\udc00"}]',
        b'[{"role":"user","content":"\x01"}]',
        b"[" + b",".join([b'{"role":"user","content":"x"}'] * 1_001) + b"]",
        b"[" * 5_000 + b"]" * 5_000,
    ],
)
def test_other_messages_are_not_plain(messages: bytes) -> None:
    with pytest.raises(NOT_PLAIN):
        read(messages=messages)


def test_the_last_of_two_counts() -> None:
    chat = read(b',"max_tokens":1,"max_tokens":2', b'[{"role":"tool","content":"a","role":"user","content":"b"}]')
    assert (chat.max_tokens, chat.messages) == (2, [PlainMessage("user", "b")])


def test_a_whole_answer_is_asked_for_with_the_provider_s_name_of_the_model() -> None:
    body = AS_IT_CAME.write(
        read(b',"temperature":1,"top_p":0.5,"stream":false,"stream_options":{},"test":false'), "its/name"
    )
    assert orjson.loads(body) == {
        "model": "its/name",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "é é \n"}],
        "temperature": 1,
        "top_p": 0.5,
    }
    assert b'"temperature":1,' in body  # not 1.0


@pytest.mark.parametrize("options", [b"", b',"stream_options":{}', b',"stream_options":{"include_usage":false}'])
def test_a_stream_is_asked_for_its_usage_where_it_has_to_be(options: bytes) -> None:
    sent = orjson.loads(AS_IT_CAME.write(read(b',"stream":true' + options), "m"))
    assert (sent["stream"], sent["stream_options"]) == (True, {"include_usage": True})
    unasked = orjson.loads(PlainWriter((), False).write(read(b',"stream":true' + options), "m"))
    assert (unasked["stream"], "stream_options" in unasked) == (True, False)


@pytest.mark.parametrize(
    ("more", "sent"),
    [
        (b"", {}),
        (b',"user":"u"', {}),
        (b',"max_tokens":5', {"max_completion_tokens": 5}),
        (b',"max_completion_tokens":6', {"max_completion_tokens": 6}),
        (b',"max_tokens":5,"max_completion_tokens":6', {"max_completion_tokens": 6}),
    ],
)
def test_options_are_renamed_or_left_out(more: bytes, sent: dict[str, int]) -> None:
    writer = PlainWriter((("max_tokens", "max_completion_tokens"), ("user", None)), True)
    body = orjson.loads(writer.write(read(more), "m"))
    assert {name: body[name] for name in PLAIN_OPTIONS if name in body} == sent


USAGE = b'{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}'


def test_of_an_answer_only_the_id_and_the_usage_are_read() -> None:
    answer = read_plain_answer(b'{"choices":[{"message":{"content":"\xc3\xa9"}}],"id":"c","usage":' + USAGE + b"}")
    assert answer == PlainAnswer("c", PlainUsage(9, 12, 21))


@pytest.mark.parametrize(
    "answer",
    [
        b'{"id":"c"}',
        b'{"id":5,"usage":%b}' % USAGE,
        b'{"usage":%b}' % USAGE,
        b'{"id":"c","usage":null}',
        b'{"id":"c","usage":{"prompt_tokens":9,"completion_tokens":12,"cost":1}}',
        b'{"id":"c","usage":{"prompt_tokens":9,"completion_tokens":12.0}}',
        b'{"id":"c","usage":%b,"x":"\xff"}' % USAGE,
        b'{"id":"c","usage":%b,"\xff":1}' % USAGE,
        b'{"id":"c","usage":%b,"x":"\\ud800"}' % USAGE,
        b'{"id":"c","usage":%b' % USAGE,
        b'{"id":"c","usage":%b}}' % USAGE,
        b"[]",
        b"",
    ],
)
def test_other_answers_are_not_plain(answer: bytes) -> None:
    with pytest.raises(NOT_PLAIN):
        read_plain_answer(answer)


def test_an_answer_that_is_nested_without_end_is_read_or_not_plain() -> None:
    """How deep the decoder goes is Python's to say: a thousand levels with 3.11, as far as its stack reaches later."""
    answer = b'{"id":"c","usage":%b,"x":%b}' % (USAGE, b"[" * 5_000 + b"]" * 5_000)
    with suppress(*NOT_PLAIN):
        assert read_plain_answer(answer) == PlainAnswer("c", PlainUsage(9, 12, 21))
