from __future__ import annotations

from bitmesh_proxy.endpoints.responses.compaction import expanded, kept_items, summary_call, transcript_of
from tests.endpoints.responses.making import a_request
from tests.endpoints.responses.specification import violations

GIVEN = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [{"type": "input_text", "text": "See"}, {"type": "image_url", "image_url": "https://a.b/c"}],
    },
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at": 1}'},
    {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "seen"}]},
    {"type": "reasoning", "summary": []},
]


def test_a_transcript_has_every_word() -> None:
    assert transcript_of(a_request(input=GIVEN).items).split("\n\n") == [
        "system: Be brief.",
        "user: See [input_image]",
        "assistant: No.",
        'assistant calls look (c1): {"at": 1}',
        "result of c1: seen",
    ]


def test_only_the_users_words_are_kept() -> None:
    assert [item["role"] for item in kept_items(a_request(input=GIVEN).items)] == ["user"]


def test_the_model_is_asked_about_all_of_it() -> None:
    request = a_request(input="now", instructions="Rhyme.", prompt_cache_key="k")
    call = summary_call(request, a_request(input="before").items)
    assert call.messages[0]["content"].endswith("Rhyme.")
    assert call.messages[1]["content"] == "user: before\n\nuser: now"
    assert call.options == {"prompt_cache_key": "k"}
    assert summary_call(a_request(), ()).options == {}


def test_a_summary_is_read_as_the_developers_word() -> None:
    message = expanded("Ada asked.", "cmp_1")
    assert violations("ItemField", message) == []
    assert message["role"] == "developer"
    assert message["content"][0]["text"].endswith("Ada asked.")


def test_a_transcript_has_the_texts_of_custom_tools() -> None:
    call = {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "*** Begin"}
    output = {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"}
    transcript = transcript_of(a_request(input=[call, output]).items)
    assert transcript == "assistant calls patch (c1): *** Begin\n\nresult of c1: done"
