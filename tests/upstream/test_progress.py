"""What is known of a call while it runs."""

from __future__ import annotations

from bitmesh_proxy.calls import Usage
from bitmesh_proxy.dialects.openai_chat_meter import OpenAIChatMeter
from bitmesh_proxy.upstream.progress import Progress
from tests.catalogue.making import make_offer

EVENT = b'data: {"id":"c-1","choices":[{"delta":{"content":"Hello"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'


def test_a_new_attempt_forgets_what_the_one_before_it_saw() -> None:
    progress = Progress()
    progress.begin(make_offer("alpha:m"))
    progress.note_sent()
    progress.usage, progress.output_characters, progress.provider_request_id = Usage(input_tokens=1), 5, "x"
    progress.meter = OpenAIChatMeter()
    progress.begin(make_offer("beta:m"))
    assert progress.offer is not None
    assert progress.offer.provider == "beta"
    assert not progress.sent
    assert (progress.reported_usage, progress.characters, progress.request_id) == (None, 0, None)


def test_a_meter_says_what_passed() -> None:
    progress = Progress(meter=OpenAIChatMeter())
    assert progress.meter is not None
    progress.meter.feed(EVENT)
    assert (progress.characters, progress.request_id, progress.reported_usage) == (5, "c-1", None)
    progress.meter.feed(USAGE)
    assert progress.reported_usage == Usage(input_tokens=3, output_tokens=2)


def test_what_is_said_behind_a_stream_is_said_behind_its_last_event() -> None:
    assert Progress().behind(b": x\n\n") == b": x\n\n"
    progress = Progress(meter=OpenAIChatMeter())
    assert progress.meter is not None
    progress.meter.feed(EVENT)
    assert progress.behind(b": x\n\n") == b": x\n\n"
    progress.meter.feed(EVENT[:9])
    assert progress.behind(b": x\n\n") == b"\n\n: x\n\n"
    assert progress.behind(b"") == b""


def test_what_a_whole_answer_says_counts_before_the_meter() -> None:
    progress = Progress(meter=OpenAIChatMeter(), usage=Usage(input_tokens=9), provider_request_id="own")
    assert progress.meter is not None
    progress.meter.feed(EVENT + USAGE)
    assert (progress.reported_usage, progress.request_id) == (Usage(input_tokens=9), "own")
