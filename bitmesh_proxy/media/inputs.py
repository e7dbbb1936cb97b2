"""Callers' pictures and sounds on their way in: decoded, held against the limits, and fetched where need be.

- A data URI becomes bytes; bytes are what they are (sniffed), not what somebody says of them.
- A link to a result of this service becomes its bytes: a provider could not reach it, and may not be able to.
- Any other link is left to the provider. Only where the provider takes no links it is fetched here, by the guarded
  fetcher, which goes to public addresses only (and to the operator's ``uploads.trusted_origins``). The addresses of
  providers are *not* trusted here: these links come from callers.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, TypeAlias

from msgspec.structs import replace

from bitmesh_proxy.calls import Call, ChatCall, ImageCall, JsonObject, Media, TranscriptionCall, VideoCall
from bitmesh_proxy.dialects.media_inputs import bytes_of, is_remote
from bitmesh_proxy.errors import BodyTooLarge, InvalidRequest, NotFound
from bitmesh_proxy.media.claimed_length import claimed_length_s
from bitmesh_proxy.media.examples import is_example
from bitmesh_proxy.media.fetch_errors import FetchError, as_gateway_error
from bitmesh_proxy.media.guarded_fetch import GuardedFetcher
from bitmesh_proxy.media.results import MediaResults
from bitmesh_proxy.media.sniff import SNIFF_BYTES, sniff
from bitmesh_proxy.media.sound_length import sound_length_s
from bitmesh_proxy.settings import Uploads

#: A data URI above this size is decoded off the loop.
_THREAD_CHARACTERS: Final = 256 * 1024
ExamplePicture: TypeAlias = Callable[[], Awaitable[bytes]]
_RESULT_PATHS: Final = ("/imgrslt/", "/v1/imgrslt/")


class InputMedia:
    """See the module's docstring."""

    def __init__(
        self, results: MediaResults, fetcher: GuardedFetcher, limits: Uploads, *, example: ExamplePicture | None = None
    ) -> None:
        """``example`` makes the picture that documentation's links stand for; the sandbox has one."""
        self._results = results
        self._fetcher = fetcher
        self._limits = limits
        self._example = example

    async def checked(self, call: Call, *, public_base_url: str) -> Call:
        """The call with every input that is here as bytes. Raises InvalidRequest or BodyTooLarge naming the field."""
        return await self._changed(call, _Check(self, public_base_url))

    async def fetched(self, call: Call) -> Call:
        """The call without links, for providers that take none. Raises as ``checked``, and UpstreamTimeout."""
        return await self._changed(call, _Fetch(self))

    async def _changed(self, call: Call, change: _Check | _Fetch) -> Call:
        if isinstance(call, ImageCall) and (call.images or call.mask is not None):
            self._check_count(len(call.images))
            images = tuple([await change(image, param="image") for image in call.images])
            mask = None if call.mask is None else await change(call.mask, param="mask")
            return replace(call, images=images, mask=mask)
        if isinstance(call, VideoCall) and (call.frames or call.references):
            self._check_count(len(call.frames) + len(call.references))
            frames = tuple([replace(each, media=await change(each.media, param="image")) for each in call.frames])
            references = tuple([await change(each, param="image") for each in call.references])
            return replace(call, frames=frames, references=references)
        if isinstance(call, TranscriptionCall):
            audio = await change(call.audio, param="file")
            if audio.data is None:
                return replace(call, audio=audio)
            length_s, claimed_s = sound_length_s(audio.data), claimed_length_s(audio.data)
            return replace(call, audio=audio, duration_s=length_s, claimed_s=claimed_s)
        if isinstance(call, ChatCall):
            return await _changed_chat(call, change)
        return call

    def _check_count(self, count: int) -> None:
        most = self._limits.max_images
        if count > most:
            raise InvalidRequest(f"Too many pictures: {count}, and at most {most} are taken.", param="image")

    def check_bytes(self, media: Media, data: bytes, *, param: str) -> Media:
        """The input as bytes of a known type within its limit. Raises InvalidRequest or BodyTooLarge."""
        limits = self._limits
        is_sound = media.kind in ("audio", "video")
        most = limits.max_audio_bytes if is_sound else limits.max_image_bytes
        if len(data) > most:
            raise BodyTooLarge(f"'{param}' has {len(data)} bytes; at most {most} are taken.", param=param)
        types: Collection[str] = limits.audio_types if is_sound else limits.image_types
        found = sniff(data[:SNIFF_BYTES])
        if found not in types:
            known = ", ".join(dict.fromkeys(name.partition("/")[2] for name in types))
            raise InvalidRequest(f"Invalid '{param}': its bytes are of no type that is taken ({known}).", param=param)
        return Media(kind=media.kind, data=data, media_type=found, name=media.name)

    async def example_for(self, media: Media) -> Media | None:
        """The picture that a link of an example stands for, where there is one."""
        if self._example is None or media.url is None or not is_example(media.url):
            return None
        return self.check_bytes(media, await self._example(), param="image")

    async def load_own(self, media: Media, media_id: str, *, param: str) -> Media:
        """One of this service's results as an input. Raises InvalidRequest for an id that is none (any more)."""
        try:
            data = await self._results.load(media_id, max_bytes=self._limits.max_image_bytes)
        except NotFound as exc:
            raise InvalidRequest(f"Invalid '{param}': there is no such result.", param=param) from exc
        except FetchError as exc:
            raise as_gateway_error(exc, param=param) from exc
        return self.check_bytes(media, data, param=param)

    async def fetch(self, media: Media, link: str, *, param: str) -> Media:
        """What lies behind a link of the caller's."""
        data = bytearray()
        try:
            async with self._fetcher.open(
                link, kinds=frozenset({"image"}), max_bytes=self._limits.max_image_bytes
            ) as answer:
                if answer.status != 200:
                    raise InvalidRequest(
                        f"Invalid '{param}': the link was answered with status {answer.status}.", param=param
                    )
                async for chunk in answer.chunks():
                    data += chunk
        except FetchError as exc:
            raise as_gateway_error(exc, param=param) from exc
        return self.check_bytes(media, bytes(data), param=param)


class _Check:
    """Makes bytes of what is here already."""

    def __init__(self, inputs: InputMedia, public_base_url: str) -> None:
        self._inputs = inputs
        self._public_base_url = public_base_url

    async def __call__(self, media: Media, *, param: str) -> Media:
        if media.data is not None:
            return self._inputs.check_bytes(media, media.data, param=param)
        if (example := await self._inputs.example_for(media)) is not None:
            return example
        if not is_remote(media):
            data = await _decoded(media, param=param)
            return self._inputs.check_bytes(media, data, param=param)
        media_id = own_result_id(media.url or "", self._public_base_url)
        return media if media_id is None else await self._inputs.load_own(media, media_id, param=param)

    async def in_chat(self, url: str) -> str:
        """A link in a conversation: data URIs are left to the provider, which knows best what it reads."""
        media_id = own_result_id(url, self._public_base_url)
        if media_id is None:
            return url
        return await _data_uri(await self._inputs.load_own(Media(kind="image", url=url), media_id, param="messages"))


class _Fetch:
    """Makes bytes of links."""

    def __init__(self, inputs: InputMedia) -> None:
        self._inputs = inputs

    async def __call__(self, media: Media, *, param: str) -> Media:
        return await self._inputs.fetch(media, media.url or "", param=param) if is_remote(media) else media

    async def in_chat(self, url: str) -> str:
        if url.startswith("data:"):
            return url
        if (example := await self._inputs.example_for(Media(kind="image", url=url))) is not None:
            return await _data_uri(example)
        return await _data_uri(await self._inputs.fetch(Media(kind="image", url=url), url, param="messages"))


def own_result_id(url: str, public_base_url: str) -> str | None:
    """The id in a link to a result of this service, or None for any other link."""
    if not url.startswith(public_base_url + "/"):
        return None
    path = url[len(public_base_url) :].partition("?")[0].partition("#")[0]
    for prefix in _RESULT_PATHS:
        if path.startswith(prefix):
            return path.removeprefix(prefix)
    return None


async def _decoded(media: Media, *, param: str) -> bytes:
    if len(media.url or "") > _THREAD_CHARACTERS:
        return await asyncio.to_thread(bytes_of, media, param=param)
    return bytes_of(media, param=param)


async def _data_uri(media: Media) -> str:
    encoded = await asyncio.to_thread(base64.b64encode, media.data or b"")
    return f"data:{media.media_type};base64,{encoded.decode()}"


async def _changed_chat(call: ChatCall, change: _Check | _Fetch) -> ChatCall:
    messages: list[JsonObject] = []
    has_changed = False
    for message in call.messages:
        content = message.get("content")
        if not isinstance(content, list):
            messages.append(message)
            continue
        parts = [await _changed_part(part, change) for part in content]
        is_same = all(new is old for new, old in zip(parts, content, strict=True))
        has_changed = has_changed or not is_same
        messages.append(message if is_same else {**message, "content": parts})
    return replace(call, messages=messages) if has_changed else call


async def _changed_part(part: Any, change: _Check | _Fetch) -> Any:
    if not isinstance(part, Mapping) or part.get("type") != "image_url":
        return part
    link = part.get("image_url")
    url = link.get("url") if isinstance(link, Mapping) else link
    if not isinstance(url, str):
        return part
    changed = await change.in_chat(url)
    if changed == url:
        return part
    return {**part, "image_url": {**link, "url": changed} if isinstance(link, Mapping) else {"url": changed}}
