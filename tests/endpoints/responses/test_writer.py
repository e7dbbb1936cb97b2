from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmesh_proxy.calls import (
    Annotation,
    Event,
    Finished,
    FinishReason,
    MediaEvent,
    MediaOutput,
    ReasoningDelta,
    RefusalDelta,
    Started,
    StreamFailed,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from bitmesh_proxy.endpoints.responses.request import ResponseRequest
from bitmesh_proxy.endpoints.responses.resource import Cost
from bitmesh_proxy.endpoints.responses.writer import Failure
from bitmesh_proxy.money import parse_usd
from tests.endpoints.responses.grammar import check
from tests.endpoints.responses.making import TOOLS, a_request, a_writer, called, said, stopped, written
from tests.endpoints.responses.specification import check_event, check_response


def checked(events: list[Any]) -> dict[str, Any]:
    """The response of a run of events that keeps grammar and schema."""
    for event in events:
        check_event(event)
    response = check(events)
    check_response(response)
    return response


def types_of(events: list[Any]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_text_has_every_event_in_order() -> None:
    events = written(a_request(), said("Hel", "lo"), stopped())
    assert types_of(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    response = checked(events)
    assert response["output"][0]["content"][0]["text"] == "Hello"
    assert response["usage"]["input_tokens_details"] == {"cached_tokens": 2}
    assert response["usage"]["total_tokens"] == 12
    assert response["completed_at"] == response["created_at"] + 2


def test_a_role_or_an_empty_text_makes_no_item() -> None:
    response = checked(written(a_request(), [Started(), TextDelta(text=""), RefusalDelta(text="")], stopped()))
    assert response["output"] == []


def test_a_background_response_is_queued_first() -> None:
    events = written(a_request(background=True), said("x"), stopped())
    assert types_of(events)[:3] == ["created", "queued", "in_progress"]
    assert [event["response"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]
    checked(events)


def test_reasoning_comes_in_an_item_of_its_own() -> None:
    request = a_request(include=["reasoning.encrypted_content"])
    thoughts = [ReasoningDelta(text="let "), ReasoningDelta(text="me see"), ReasoningDelta(encrypted="sig")]
    summary = [ReasoningDelta(text="It saw.", is_summary=True)]
    response = checked(written(request, thoughts, summary, said("Yes."), stopped()))
    reasoning, message = response["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "let me see"}]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "It saw."}]
    assert reasoning["encrypted_content"] == "sig"
    assert message["content"][0]["text"] == "Yes."


def test_encrypted_reasoning_stays_here_unless_asked_for() -> None:
    response = checked(written(a_request(), [ReasoningDelta(encrypted="sig")], said("Yes."), stopped()))
    assert [item["type"] for item in response["output"]] == ["message"]


def test_a_refusal_is_a_part_of_its_own() -> None:
    response = checked(written(a_request(), said("Well."), [RefusalDelta(text="No.")], stopped()))
    assert [part["type"] for part in response["output"][0]["content"]] == ["output_text", "refusal"]


def test_citations_stay_with_their_text() -> None:
    citation = {"type": "url_citation", "url": "https://a.test", "title": "A", "start_index": 0, "end_index": 1}
    response = checked(written(a_request(), said("x"), [Annotation(annotation=citation)], stopped()))
    assert response["output"][0]["content"][0]["annotations"] == [citation]


def test_a_citation_without_a_text_is_no_event() -> None:
    assert checked(written(a_request(), [Annotation(annotation={})], stopped()))["output"] == []


@pytest.mark.parametrize(("asked", "wanted"), [({}, []), ({"top_logprobs": 1}, [104, 105])])
def test_probabilities_only_go_to_those_who_ask(asked: dict[str, Any], wanted: list[int]) -> None:
    raw = {"token": "hi", "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": "ho", "logprob": -2}]}
    response = checked(written(a_request(**asked), [TextDelta(text="hi", logprobs=[raw])], stopped()))
    logprobs = response["output"][0]["content"][0]["logprobs"]
    assert [each["bytes"] for each in logprobs] == ([wanted] if wanted else [])


# ---------------------------------------------------------------- tools


def test_arguments_without_any_are_an_empty_object() -> None:
    response = checked(written(a_request(tools=TOOLS), called(0, "look"), stopped(FinishReason.TOOL_CALLS)))
    assert response["output"][0]["arguments"] == "{}"


def test_calls_that_interleave_are_written_one_after_another() -> None:
    first, second = called(0, "look", '{"at"', ":1}"), called(1, "listen", '{"to"', ":2}")
    mixed: list[Event] = [first[0], second[0], first[1], second[1], first[2], second[2]]
    response = checked(written(a_request(tools=TOOLS), *([event] for event in mixed), stopped()))
    assert [(item["name"], item["arguments"]) for item in response["output"]] == [
        ("look", '{"at":1}'),
        ("listen", '{"to":2}'),
    ]


def test_a_text_inside_a_call_waits_for_its_end() -> None:
    call = called(0, "look", '{"at"', ":1}")
    events = written(
        a_request(tools=TOOLS), call[:2], [TextDelta(text="a")], [TextDelta(text="b")], call[2:], stopped()
    )
    response = checked(events)
    assert [item["type"] for item in response["output"]] == ["function_call", "message"]
    assert response["output"][1]["content"][0]["text"] == "ab"


def test_what_still_waits_at_the_end_is_written() -> None:
    broken = called(0, "look", '{"at"')
    response = checked(written(a_request(tools=TOOLS), broken, called(1, "listen", "{}"), stopped()))
    assert [item["arguments"] for item in response["output"]] == ['{"at"', "{}"]


def test_blanks_after_whole_arguments_are_nothing() -> None:
    late: list[Event] = [ToolCallDelta(index=0, arguments="\n")]
    response = checked(written(a_request(tools=TOOLS), called(0, "look", "{}"), said("a"), late, said("b"), stopped()))
    assert response["output"][0]["arguments"] == "{}"
    assert response["output"][1]["content"][0]["text"] == "ab"


def test_an_id_that_is_too_long_is_made_shorter_the_same_way_each_time() -> None:
    calls: list[Event] = [ToolCallDelta(index=0, call_id="c" * 80, name="look", arguments="{}")]
    ids = {checked(written(a_request(tools=TOOLS), calls, stopped()))["output"][0]["call_id"] for _ in range(2)}
    assert len(ids) == 1
    assert len(ids.pop()) <= 64


ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]}


@pytest.mark.parametrize(
    ("choice", "left"),
    [("auto", ["look", "listen"]), ("none", []), (ALLOWED, ["look"]), ({"type": "function", "name": "look"}, ["look"])],
)
def test_calls_that_the_choice_forbids_are_left_out(choice: Any, left: list[str]) -> None:
    request = a_request(tools=TOOLS, tool_choice=choice)
    answer = [*said("Hm."), *called(0, "listen", "{", "}"), *called(1, "look", "{}")]
    if choice == "auto":
        answer = [*said("Hm."), *called(0, "look", "{", "}"), *called(1, "listen", "{}")]
    response = checked(written(request, *([event] for event in answer), stopped(FinishReason.TOOL_CALLS)))
    assert [item["name"] for item in response["output"] if item["type"] == "function_call"] == left
    assert len(response.get("warnings", [])) == 2 - len(left)


def test_a_call_of_a_tool_that_nobody_offered_is_left_out() -> None:
    response = checked(written(a_request(tools=TOOLS), said("Hm."), called(0, "rm", "{}"), stopped()))
    assert [item["type"] for item in response["output"]] == ["message"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "look"}, {**ALLOWED, "mode": "required"}])
def test_an_answer_without_the_required_call_has_failed(choice: Any) -> None:
    response = checked(written(a_request(tools=TOOLS, tool_choice=choice), said("I would rather not."), stopped()))
    assert response["status"] == "failed"
    assert response["error"]["code"] == "tool_call_missing"


def test_an_answer_of_nothing_but_forbidden_calls_has_failed() -> None:
    response = checked(written(a_request(tools=TOOLS, tool_choice="none"), called(0, "look", "{}"), stopped()))
    assert response["error"]["code"] == "tool_call_not_allowed"


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("reason", "word"),
    [(FinishReason.LENGTH, "max_output_tokens"), (FinishReason.CONTENT_FILTER, "content_filter")],
)
def test_a_cut_answer_is_incomplete_and_so_is_its_last_item(reason: FinishReason, word: str) -> None:
    request = a_request(tools=TOOLS, tool_choice="required")
    response = checked(written(request, said("Once"), called(0, "look", '{"a'), stopped(reason)))
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": word}
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]


@pytest.mark.parametrize("after", [False, True])
def test_an_error_in_the_stream_ends_it(after: bool) -> None:
    failed: list[Event] = [StreamFailed(message="overloaded", code="busy"), TextDelta(text="more")]
    events = written(a_request(), said("a") if after else [], failed, stopped())
    response = checked(events)
    assert types_of(events)[-2:] == ["error", "failed"]
    assert response["error"] == {"code": "busy", "message": "overloaded"}
    assert response["output"] == []
    assert events[-2]["code"] == events[-2]["error"]["code"] == "busy"


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"input": "x"}, "model_error"), ({"messages": [{"role": "user", "content": "x"}]}, "internal_error")],
)
def test_errors_have_the_vocabularys_names(fields: dict[str, Any], word: str) -> None:
    events = written(a_request(**fields), [StreamFailed(message="overloaded")])
    assert events[-2]["error"]["type"] == word


def test_a_stream_that_just_ends_has_failed() -> None:
    response = checked(written(a_request(), said("a")))
    assert response["error"]["code"] == "upstream_broken"
    assert response["usage"]["estimated"] is True


def test_finished_items_stay_when_the_rest_fails() -> None:
    request = a_request(tools=TOOLS)
    writer = a_writer(request)
    events = [*writer.start(), *writer.feed([*said("a"), *called(0, "look", "{")])]
    events += writer.fail(Failure(message="gone", code="upstream_timeout", type="model_error"))
    response = checked(events)
    assert [item["type"] for item in response["output"]] == ["message"]
    assert writer.fail(Failure(message="again", code="x")) == []


def test_usage_is_estimated_where_nobody_names_it() -> None:
    response = checked(written(a_request(), said("12345"), [Finished(reason=FinishReason.STOP)]))
    usage = response["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["estimated"]) == (2, 2, True)


def test_cost_and_latency_stand_in_usage() -> None:
    writer = a_writer()
    events = [*writer.start(), *writer.feed([*said("a"), *stopped()])]
    events += writer.finish(Cost(charge_nano_usd=parse_usd("0.04"), latency_ms=3245))
    usage = checked(events)["usage"]
    assert (usage["total_cost"], usage["latency_ms"]) == (0.04, 3245)


def test_the_last_usage_counts() -> None:
    late = stopped()
    assert isinstance(late[1], UsageReport)
    response = checked(written(a_request(), said("a"), [UsageReport(usage=late[1].usage)], late))
    assert response["usage"]["output_tokens"] == 5


# ---------------------------------------------------------------- media, padding, progress


@pytest.mark.parametrize(
    ("kind", "media_type", "part"),
    [
        ("image", "image/png", {"type": "input_image", "image_url": "https://h.test/a", "detail": "auto"}),
        ("video", "video/mp4", {"type": "input_video", "video_url": "https://h.test/a"}),
        (
            "audio",
            "audio/wav",
            {
                "type": "input_file",
                "filename": "speech.wav",
                "file_url": "https://h.test/a",
                "media_type": "audio/wav",
            },
        ),
    ],
)
def test_media_are_messages_with_words_beside_them(kind: Any, media_type: str, part: dict[str, Any]) -> None:
    writer = a_writer()
    events = list(writer.start())
    for _ in range(2):
        events += writer.media("https://h.test/a", kind=kind, media_type=media_type)
    events += [*writer.feed(stopped()), *writer.finish()]
    response = checked(events)
    assert [item["content"][1] for item in response["output"]] == [part, part]
    assert "https://h.test/a" in response["output"][0]["content"][0]["text"]
    assert [len(item["content"]) for item in response["items"]] == [1, 1]


def test_pictures_of_a_language_model_are_messages_too() -> None:
    picture = MediaEvent(output=MediaOutput(kind="image", data=b"\x89PNG", media_type="image/png"))
    secret = MediaEvent(output=MediaOutput(kind="image", url="https://p.test/x", needs_credential=True))
    response = checked(written(a_request(), said("Here:"), [secret, picture], stopped()))
    assert [len(item["content"]) for item in response["output"]] == [1, 2]
    assert response["output"][1]["content"][1]["image_url"].startswith("data:image/png;base64,")


def test_padding_makes_all_deltas_equally_long() -> None:
    request = a_request(stream=True, stream_options={"include_obfuscation": True}, tools=TOOLS)
    events = written(request, said("a", "b" * 15, "c" * 33), called(0, "look", "{}"), stopped())
    checked(events)
    padded = [event for event in events if event["type"].endswith(".delta")]
    assert {(len(event["delta"]) + len(event["obfuscation"])) % 16 for event in padded} == {0}


def test_progress_is_only_for_those_who_ask() -> None:
    assert a_writer().progress(40, "in_progress") == []
    asked = a_request(stream_options={"include_progress": True})
    assert a_writer(asked).progress(40, "in_progress") == [
        {"type": "bitmesh:progress", "sequence_number": 0, "percent": 40, "stage": "in_progress"}
    ]


# ---------------------------------------------------------------- anything at all

TEXTS = st.text(alphabet="ab{}\n é", max_size=6)


def tool_events(index: int) -> st.SearchStrategy[list[Event]]:
    name = st.sampled_from(["look", "listen", "rm"])
    pieces = st.lists(st.sampled_from(["{", "}", '"a"', ":", "1", " ", "{}"]), max_size=5)
    return st.builds(lambda name, pieces: called(index, name, *pieces), name, pieces)


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """What a provider might send: several threads of events, shuffled together, each in its own order."""
    texts: st.SearchStrategy[Event] = st.one_of(
        st.builds(TextDelta, text=TEXTS),
        st.builds(ReasoningDelta, text=TEXTS, is_summary=st.booleans(), encrypted=st.none() | st.just("e")),
        st.builds(RefusalDelta, text=TEXTS),
        st.just(
            Annotation(annotation={"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1})
        ),
        st.just(MediaEvent(output=MediaOutput(kind="image", url="https://h.test/a"))),
    )
    threads = [draw(st.lists(texts, max_size=8)), *(draw(tool_events(i)) for i in range(draw(st.integers(0, 3))))]
    order = draw(st.permutations([number for number, thread in enumerate(threads) for _ in thread]))
    iterators = [iter(thread) for thread in threads]
    events: list[Event] = [Started(), *(next(iterators[number]) for number in order)]
    ends: list[list[Event]] = [stopped(reason) for reason in FinishReason]
    return events + draw(st.sampled_from([*ends, [], [StreamFailed(message="m")]]))


REQUESTS = st.builds(
    a_request,
    tools=st.just(TOOLS),
    tool_choice=st.sampled_from(["auto", "none", "required", ALLOWED]),
    include=st.sampled_from([[], ["reasoning.encrypted_content"]]),
    background=st.booleans(),
)


@settings(deadline=None, max_examples=60)  # schemas are slow to hold, and machines are busy
@given(request=REQUESTS, answer=answers(), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_every_answer_keeps_grammar_and_schema_however_it_is_cut(
    request: Any, answer: list[Event], cuts: list[int]
) -> None:
    events = written(request, *([event] for event in answer))
    whole = checked(events)
    edges = [0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]
    batches = [answer[start:end] for start, end in itertools.pairwise(edges)]
    assert check(written(request, *batches)) == whole
    assert written(request, answer)[-1]["response"] == whole


def as_json(events: list[Any]) -> list[bytes]:
    return [orjson.dumps(event) for event in events]


def written_short(request: ResponseRequest, events: Sequence[Event]) -> tuple[list[bytes], int]:
    """Every event of an answer as JSON, more text in the short way wherever that goes; and how often it went."""
    writer = a_writer(request)
    lines = as_json(writer.start())
    short = 0
    for event in events:
        line = writer.more_text(event)
        if line is None:
            lines += as_json(writer.feed([event]))
        else:
            lines.append(line)
            short += 1
    return lines + as_json(writer.finish()), short


def test_more_text_is_written_in_one_piece() -> None:
    texts = ["a", "%d %b %", '"quoted"\n', "\u2028 \U0001f600", "", "b"]
    lines, short = written_short(a_request(), [*said(*texts), *stopped()])
    assert lines == as_json(written(a_request(), said(*texts), stopped()))
    assert short == 4  # neither the first one, nor the empty one, which has no event


def test_more_reasoning_is_written_in_one_piece_too() -> None:
    request = a_request(include=["reasoning.encrypted_content"], top_logprobs=1)
    usage = stopped()[1]
    thoughts: list[Event] = [
        *(ReasoningDelta(text=text) for text in ("a", "%b", "")),
        usage,  # some say it with every chunk
        ReasoningDelta(text="b"),
        ReasoningDelta(text="c", is_summary=True),
        *(ReasoningDelta(text=text) for text in ("d", "e")),
        ReasoningDelta(text="f", encrypted="x"),
        ReasoningDelta(text="g"),
    ]
    answer = [Started(), *thoughts, TextDelta(text="h"), *stopped()]
    lines, short = written_short(request, answer)
    assert lines == as_json(written(request, answer))
    assert short == 4  # %b, b, e, g


def test_usage_between_texts_does_not_end_their_run() -> None:
    usage = stopped()[1]
    answer = [*said("a"), usage, TextDelta(text="b"), usage, TextDelta(text="c"), *stopped()]
    assert written_short(a_request(), answer) == (as_json(written(a_request(), answer)), 2)


@pytest.mark.parametrize(
    "fields", [{"stream": True, "stream_options": {"include_obfuscation": True}}, {"top_logprobs": 1}]
)
def test_text_that_goes_out_with_more_is_not_written_short(fields: dict[str, Any]) -> None:
    lines, short = written_short(a_request(**fields), [*said("a", "b", "c"), *stopped()])
    assert lines == as_json(written(a_request(**fields), said("a", "b", "c"), stopped()))
    assert short == 0


def test_nothing_follows_a_failure_in_the_short_way_either() -> None:
    writer = a_writer()
    writer.start()
    writer.feed(said("a"))
    writer.fail(Failure(message="gone", code="x"))
    assert writer.more_text(TextDelta(text="b")) is None


@settings(deadline=None)
@given(request=REQUESTS, answer=answers())
def test_the_short_way_writes_what_the_long_one_does(request: Any, answer: list[Event]) -> None:
    assert written_short(request, answer)[0] == as_json(written(request, answer))


@settings(deadline=None)
@given(answer=answers())
def test_no_word_is_lost(answer: list[Event]) -> None:
    """Texts come out in their order, and so do the arguments of each call that is allowed."""
    response = check(written(a_request(tools=TOOLS), answer))
    if response["status"] == "failed":
        return
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    texts = [part["text"] for part in parts if part["type"] == "output_text" and not part["text"].startswith("![")]
    assert "".join(texts) == "".join(event.text for event in answer if isinstance(event, TextDelta))
    names = [event.name for event in answer if isinstance(event, ToolCallDelta) and event.name]
    called_names = [item["name"] for item in response["output"] if item["type"] == "function_call"]
    assert sorted(called_names) == sorted(name for name in names if name in ("look", "listen", "speak"))


def test_the_call_of_a_custom_tool_is_an_item_of_its_own_kind() -> None:
    request = a_request(tools=[*TOOLS, {"type": "custom", "name": "patch"}])
    calls = [
        ToolCallDelta(index=0, call_id="c0", name="patch"),
        ToolCallDelta(index=0, arguments="*** Begin"),
        ToolCallDelta(index=0, arguments="\n}"),
        ToolCallDelta(index=1, call_id="c1", name="look", arguments="{}"),
    ]
    events = written(request, [Started()], calls, stopped(FinishReason.TOOL_CALLS))
    assert types_of(events)[2:] == [
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    patch, look = events[-1]["response"]["output"]
    assert (patch["id"], patch["type"], patch["name"]) == ("ctc_1", "custom_tool_call", "patch")
    assert (patch["call_id"], patch["input"]) == ("c0", "*** Begin\n}")
    assert look["type"] == "function_call"
