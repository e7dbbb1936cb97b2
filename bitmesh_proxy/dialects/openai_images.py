"""OpenAI's pictures: ``/images/generations`` and ``/images/edits``, whole or as a stream of partial pictures.

Source: OpenAI's published API description of 2026-08-21. GPT image models answer base64 and refuse
``response_format``; DALL·E and the servers that imitate it take it. Edits go as a form when there are bytes, and as
JSON when a picture is only a link, which only OpenAI itself takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import orjson
from msgspec.structs import replace

from bitmesh_proxy.calls import ImageCall, MediaOutput, MediaResult, Usage
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects.base import FormPart, ImageDialect, UpstreamRequest
from bitmesh_proxy.dialects.json_answers import child, from_base64, link, objects, read_success, string, those_readable
from bitmesh_proxy.dialects.media_inputs import file_part, is_remote, link_of, text_part
from bitmesh_proxy.dialects.openai_usage import details, find_all_usages, first_count, token_count
from bitmesh_proxy.dialects.provider_errors import error_message, read_redacted
from bitmesh_proxy.dialects.sse import EventCutter, Overflow
from bitmesh_proxy.errors import UnsupportedParameter, UpstreamBroken

_OPTIONS: Final = frozenset({"background", "moderation", "output_compression", "partial_images", "style", "user"})
_EDIT_ONLY: Final = frozenset({"input_fidelity"})
_NOT_IN_EDITS: Final = frozenset({"style"})
#: Not in the form of an edit, though it is in its JSON.
_NOT_IN_FORMS: Final = frozenset({"moderation"})

#: The end of the ``type`` of a finished picture's event.
_FINISHED: Final = b'.completed"'
#: So much of it may stand in one piece, and the rest in the next.
_SEAM_BYTES: Final = len(_FINISHED) - 1
_MAX_TAIL_BYTES: Final = 16 * 1024


def dialect(
    *,
    takes_response_format: Callable[[Offer], bool],
    takes_image_urls: bool = True,
    gives_links: bool = True,
    extra: frozenset[str] = frozenset(),
) -> ImageDialect:
    """Make a provider's dialect.

    ``takes_response_format``: the model of this offer knows the field, and answers links without it.
    ``takes_image_urls``: it fetches input pictures itself. ``gives_links``: it may be asked for them. ``extra``: what
    further options it knows, and ``steps`` (or ``num_inference_steps``), ``seed`` where it takes them.
    """

    def request(call: ImageCall, offer: Offer) -> UpstreamRequest:
        body = _fields(call, offer, extra=extra)
        if takes_response_format(offer) and "response_format" not in offer.options.get("refuses", ()):
            if not gives_links or call.response_format in ("b64_json", "b64_ephemeral"):
                body["response_format"] = "b64_json"
            elif call.response_format is not None:
                body["response_format"] = "url"
        if not call.images:
            if call.mask is not None:
                raise UnsupportedParameter("A mask needs a picture that it belongs to.", param="mask")
            return UpstreamRequest(path="/images/generations", headers=_accept(call), body=orjson.dumps(body))
        inputs = [*call.images, *([call.mask] if call.mask is not None else [])]
        if takes_image_urls and any(is_remote(media) for media in inputs):
            body["images"] = [{"image_url": link_of(image)} for image in call.images]
            if call.mask is not None:
                body["mask"] = {"image_url": link_of(call.mask)}
            return UpstreamRequest(path="/images/edits", headers=_accept(call), body=orjson.dumps(body))
        return UpstreamRequest(path="/images/edits", headers=_accept(call), form=_form(call, body))

    return ImageDialect(
        request=request,
        read=_read,
        takes_image_urls=takes_image_urls,
        stream_meter=OpenAIImagesMeter,
    )


def parse_image_usage(raw: object) -> Usage | None:
    """The token figures of a picture. Output tokens are the picture's, unless the answer splits them."""
    if not isinstance(raw, dict):
        return None
    output_tokens = first_count(raw, "output_tokens", "completion_tokens")
    of_input = details(raw, "input_tokens_details", "prompt_tokens_details")
    of_output = details(raw, "output_tokens_details", "completion_tokens_details")
    image_output = first_count(of_output, "image_tokens") if "image_tokens" in of_output else output_tokens
    return Usage(
        input_tokens=first_count(raw, "input_tokens", "prompt_tokens"),
        cached_input_tokens=token_count(of_input.get("cached_tokens")),
        image_input_tokens=token_count(of_input.get("image_tokens")),
        output_tokens=output_tokens,
        image_output_tokens=image_output,
    )


class OpenAIImagesMeter:
    """The ``StreamMeter`` of streamed pictures: one usage for each finished picture, which are added up.

    A picture's event may be megabytes of base64; only the end of an event is looked at, where the usage stands, and all
    of it for one word that no base64 can hold: some servers name no usage, and the picture is finished all the same.
    """

    __slots__ = (
        "_cutter",
        "_finished",
        "_images",
        "_last",
        "_recent",
        "_usages",
        "output_characters",
        "provider_request_id",
    )

    def __init__(self) -> None:
        self.output_characters = 0
        self.provider_request_id: str | None = None
        self._cutter = EventCutter(_MAX_TAIL_BYTES, overflow=Overflow.KEEP_END)
        self._usages: list[Usage] = []
        self._images = 0
        self._finished = 0
        self._last = b""
        self._recent: deque[bytes] = deque(maxlen=2)

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the stream, cut anywhere."""
        seam = self._last + data[:_SEAM_BYTES]  # not all of it: that would be a copy of each piece
        self._finished += data.count(_FINISHED) + seam.count(_FINISHED)
        self._last = data[-_SEAM_BYTES:] if len(data) >= _SEAM_BYTES else seam[-_SEAM_BYTES:]
        whole = self._cutter.cut(data)
        if not whole:
            return
        self._recent.append(whole[-_MAX_TAIL_BYTES:])
        for raw in find_all_usages(whole):
            usage = parse_image_usage(raw)
            if usage is not None:
                self._images += 1
                self._usages.append(usage)

    @property
    def usage(self) -> Usage | None:
        """The figures of all pictures that were finished."""
        if not self._usages:
            return Usage(images=self._finished) if self._finished else None
        # Sums are counts too: no larger than the books can take.
        return Usage(
            input_tokens=token_count(sum(usage.input_tokens for usage in self._usages)),
            cached_input_tokens=token_count(sum(usage.cached_input_tokens for usage in self._usages)),
            image_input_tokens=token_count(sum(usage.image_input_tokens for usage in self._usages)),
            output_tokens=token_count(sum(usage.output_tokens for usage in self._usages)),
            image_output_tokens=token_count(sum(usage.image_output_tokens for usage in self._usages)),
            images=self._images,
        )

    @property
    def is_complete(self) -> bool:
        """Was a picture finished? The stream has no other end."""
        return bool(self._usages) or self._finished > 0

    @property
    def error(self) -> str | None:
        """The message of an error event."""
        for event in b"".join(self._recent).split(b"\n\n"):
            line = event[event.rfind(b"data:") + 5 :].strip()
            if b'"error"' not in line:
                continue
            answer = read_redacted(line)
            if isinstance(answer, dict) and (answer.get("error") or answer.get("type") == "error"):
                return error_message(answer) or "The provider reported an error."
        return None

    @property
    def is_in_event(self) -> bool:
        """Does what has come end within an event?"""
        return self._cutter.is_holding


def _fields(call: ImageCall, offer: Offer, *, extra: frozenset[str]) -> dict[str, Any]:
    quality = offer.quality_for(call.quality)
    said: dict[str, Any] = {
        "model": offer.upstream_model,
        "prompt": call.prompt,
        "n": call.count if call.count > 1 else None,
        "size": f"{call.width}x{call.height}" if call.width and call.height else call.options.get("size"),
        "quality": quality,
        "output_format": call.output_format,
        "stream": True if call.stream else None,
    }
    known = _OPTIONS | extra
    if call.images:
        known = (known | _EDIT_ONLY) - _NOT_IN_EDITS
    further = {"num_inference_steps": call.steps, **call.options, "steps": call.steps, "seed": call.seed}
    said.update({name: value for name, value in further.items() if name in known})
    refused = frozenset(offer.options.get("refuses", ()))
    return {
        **offer.defaults,
        **{name: value for name, value in said.items() if value is not None and name not in refused},
    }


def _form(call: ImageCall, body: dict[str, Any]) -> tuple[FormPart, ...]:
    # One picture is `image`, several are `image[]`: so does the official client, and servers know both.
    name = "image" if len(call.images) == 1 else "image[]"
    parts = [text_part(field, value) for field, value in body.items() if field not in _NOT_IN_FORMS]
    parts += [file_part(name, image, param="image") for image in call.images]
    if call.mask is not None:
        parts.append(file_part("mask", call.mask, param="mask"))
    return tuple(parts)


def _accept(call: ImageCall) -> dict[str, str]:
    return {"Accept": "text/event-stream" if call.stream else "application/json"}


def _read(body: bytes) -> MediaResult:
    answer = read_success(body, "data")
    outputs = those_readable(objects(answer["data"]), lambda item: _read_item(item, answer))
    if not outputs:
        raise UpstreamBroken("The provider's answer holds no picture.")
    usage = parse_image_usage(child(answer, "usage") or None) or Usage()
    return MediaResult(
        outputs=outputs,
        usage=replace(usage, images=len(outputs)),
        provider_request_id=string(answer.get("id")) or None,
        raw=answer,
    )


def _read_item(item: dict[str, Any], answer: dict[str, Any]) -> MediaOutput:
    made = string(answer.get("output_format"))
    encoded = string(item.get("b64_json"))
    url = link(item.get("url"))
    if not encoded and url is None:
        raise UpstreamBroken("The provider's answer holds a picture that is neither a link nor base64.")
    return MediaOutput(
        kind="image",
        data=from_base64(encoded) if encoded else None,
        url=None if encoded else url,
        media_type=f"image/{made}" if made in ("png", "jpeg", "webp") else None,
        revised_prompt=string(item.get("revised_prompt")) or None,
    )
