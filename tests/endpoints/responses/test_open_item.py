from __future__ import annotations

from bitmesh_proxy.endpoints.responses.open_item import OpenItem


def test_parts_follow_each_other_and_keep_their_places() -> None:
    item = OpenItem("message", "msg_1", 3)
    events = [item.open(), *item.text("output_text", "a"), *item.text("refusal", "b"), *item.text("output_text", "c")]
    events += item.close("completed")
    assert {event["output_index"] for event in events} == {3}
    added = [event for event in events if event["type"] == "response.content_part.added"]
    assert [event["content_index"] for event in added] == [0, 1, 2]
    assert [part["type"] for part in events[-1]["item"]["content"]] == ["output_text", "refusal", "output_text"]


def test_summaries_are_counted_apart() -> None:
    item = OpenItem("reasoning", "rs_1", 0)
    events = [*item.text("reasoning_text", "a"), *item.text("summary_text", "b"), *item.text("reasoning_text", "c")]
    events += item.close("completed")
    assert [event["summary_index"] for event in events if "summary_index" in event] == [0, 0, 0, 0]
    assert [part["text"] for part in events[-1]["item"]["content"]] == ["a", "c"]


def test_earlier_events_do_not_change_later() -> None:
    item = OpenItem("message", "msg_1", 0)
    first = item.open()
    list(item.text("output_text", "a"))
    list(item.close("completed"))
    assert first["item"] == {
        "id": "msg_1",
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }


def test_arguments_are_whole_when_they_are_an_object() -> None:
    item = OpenItem("function_call", "fc_1", 0, call_id="c", name="f")
    states = []
    for piece in ('{"a"', ":{}", "}", " \n"):
        list(item.arguments(piece))
        states.append(item.is_complete_call)
    assert states == [False, False, True, True]


def test_an_item_may_be_cut() -> None:
    item = OpenItem("function_call", "fc_1", 0, call_id="c", name="f")
    list(item.arguments("{"))
    *_, done = item.close("incomplete")
    assert (done["item"]["status"], done["item"]["arguments"]) == ("incomplete", "{")


def test_a_free_text_is_never_known_to_be_whole_and_may_be_empty() -> None:
    item = OpenItem("custom_tool_call", "ctc_1", 0, call_id="c", name="patch")
    assert [event["type"] for event in item.arguments("{}")] == ["response.custom_tool_call_input.delta"]
    assert not item.is_complete_call
    done, last = item.close("completed")
    assert (done["type"], done["input"]) == ("response.custom_tool_call_input.done", "{}")
    assert last["item"] == {
        "id": "ctc_1",
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": "c",
        "name": "patch",
        "input": "{}",
    }
    done, last = OpenItem("custom_tool_call", "ctc_1", 0, call_id="c", name="patch").close("completed")
    assert done["input"] == last["item"]["input"] == ""
