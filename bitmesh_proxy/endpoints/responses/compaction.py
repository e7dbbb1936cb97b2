"""Conversations made shorter: what of them stays, what a model is asked to sum up, and how that is read again.

The users' words stay as they are; everything else is summed up and sealed into one ``compaction`` item. Where no
language model is asked, the transcript itself is what is sealed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from bitmesh_proxy.calls import ChatCall, JsonObject
from bitmesh_proxy.endpoints.responses.content import text_part
from bitmesh_proxy.endpoints.responses.items import GIVEN, OUTPUTS
from bitmesh_proxy.endpoints.responses.request import ResponseRequest

_ASK: Final = (
    "Sum up the conversation below so that it can go on from your summary alone. Keep names, numbers, decisions, open"
    " questions, results of tools and whatever was promised. Do not answer it and do not add anything."
)
_READ: Final = "What was said before, summed up:\n\n"


def summary_call(request: ResponseRequest, context: Sequence[JsonObject]) -> ChatCall:
    """The call that asks the request's own model for the summary."""
    instructions = (
        f"{_ASK}\n\nIt stood under these instructions:\n{request.instructions}" if request.instructions else _ASK
    )
    transcript = transcript_of([*context, *request.items])
    return ChatCall(
        model=request.model,
        messages=[{"role": "system", "content": instructions}, {"role": "user", "content": transcript}],
        options={} if request.prompt_cache_key is None else {"prompt_cache_key": request.prompt_cache_key},
    )


def transcript_of(items: Sequence[JsonObject]) -> str:
    """A conversation as plain text, one paragraph for each item that has words."""
    return "\n\n".join(_paragraphs(items))


def kept_items(items: Sequence[JsonObject]) -> list[JsonObject]:
    """The users' own messages."""
    return [item for item in items if item["type"] == "message" and item["role"] == "user"]


def expanded(summary: str, item_id: str) -> JsonObject:
    """A compaction item as the message that a model reads in its place."""
    return {
        "id": item_id,
        "type": "message",
        "status": "completed",
        "role": "developer",
        "content": [text_part(_READ + summary)],
    }


def _paragraphs(items: Sequence[JsonObject]) -> Iterator[str]:
    for item in items:
        kind = item["type"]
        if kind == "message":
            texts = [part.get("text") or part.get("refusal") or f"[{part['type']}]" for part in item["content"]]
            yield f"{item['role']}: " + " ".join(texts)
        elif kind in GIVEN:
            yield f"assistant calls {item['name']} ({item['call_id']}): {item[GIVEN[kind]]}"
        elif kind in OUTPUTS:
            output = item["output"]
            text = output if isinstance(output, str) else " ".join(p.get("text") or f"[{p['type']}]" for p in output)
            yield f"result of {item['call_id']}: {text}"
