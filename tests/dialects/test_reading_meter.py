"""A meter that reads in full what it looks at."""

from __future__ import annotations

from bitmesh_proxy.calls import Usage
from bitmesh_proxy.dialects.openai_chat_meter import OpenAIChatMeter
from bitmesh_proxy.dialects.openai_chat_reader import OpenAIChatReader
from bitmesh_proxy.dialects.reading_meter import ReadingMeter
from tests.dialects.cuts import sample, ways_to_cut


def test_it_sees_what_the_reader_sees_however_the_stream_is_cut() -> None:
    for chunks in ways_to_cut(sample("together/chat_stream.sse")):
        meter = ReadingMeter(OpenAIChatReader)
        for chunk in chunks:
            meter.feed(chunk)
        assert meter.usage == Usage(input_tokens=12, cached_input_tokens=4, output_tokens=9)
        assert meter.output_characters == len("Let me think.Hello there")
        assert (meter.is_complete, meter.error) == (True, None)
        assert meter.provider_request_id == "oWcQx2k-2kFHot-9a1b2c3d"


def test_letters_beyond_ascii_count_as_the_meter_that_does_not_read_counts_them() -> None:
    """Or who leaves a Chinese answer just before its end would be charged a third of it."""
    data = 'data: {"choices":[{"index":0,"delta":{"content":"你好，世界"}}]}\n\n'.encode()
    reading, passing = ReadingMeter(OpenAIChatReader), OpenAIChatMeter()
    for meter in (reading, passing):
        meter.feed(data)
    assert reading.output_characters == passing.output_characters == 15


def test_it_tells_of_an_error() -> None:
    meter = ReadingMeter(OpenAIChatReader)
    meter.feed(sample("together/chat_stream_failed.sse"))
    assert meter.error == "The engine stopped. Key [redacted] was used."
    assert not meter.is_complete
