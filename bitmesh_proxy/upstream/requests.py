"""A request to a provider as bytes: request line, headers, body. Pure, but for a form's boundary and a fresh id.

Header values with line ends are refused, so that nothing can smuggle a second request into the first.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from yarl import URL

from bitmesh_proxy import __version__
from bitmesh_proxy.dialects.base import FRESH_UUID, FormPart, UpstreamRequest
from bitmesh_proxy.errors import InternalError
from bitmesh_proxy.upstream.access import ProviderAccess
from bitmesh_proxy.upstream.opening import Origin

USER_AGENT: Final = f"bitmesh-proxy/{__version__}"

_JSON: Final = "application/json"

_ALWAYS: Final = f"User-Agent: {USER_AGENT}\r\nAccept-Encoding: identity\r\n"


class Target(NamedTuple):
    """Where a request goes: the origin, the ``Host`` header, and the path with its query, percent-encoded."""

    origin: Origin
    host: str
    path: str


class RequestBytes(NamedTuple):
    """A request that is ready to be written, and where to."""

    target: Target
    head: bytes
    body: bytes


class HeadAroundLength(NamedTuple):
    """Where requests go, and their head before and behind the figure of its ``Content-Length``."""

    target: Target
    before: bytes
    after: bytes

    def with_body(self, body: bytes) -> RequestBytes:
        """The whole request with this body."""
        return RequestBytes(self.target, b"%b%d%b" % (self.before, len(body), self.after), body)


def head_around_length(access: ProviderAccess, request: UpstreamRequest) -> HeadAroundLength:
    """What all requests like this one, which has a body, have in common but for their bodies. Raises InternalError."""
    target, head = _head(access, request, content_type=_JSON, length_bytes=0)
    before, name, after = head.rpartition(b"\r\nContent-Length: 0\r\n")
    return HeadAroundLength(target, before + name[:-3], name[-2:] + after)


def request_bytes(access: ProviderAccess, request: UpstreamRequest) -> RequestBytes:
    """The whole request. Raises InternalError when it cannot be written."""
    body, content_type = b"", None
    if request.form is not None:
        body, content_type = form_bytes(request.form)
    elif request.body is not None:
        body, content_type = _finished_body(request.body, request), _JSON
    has_body = content_type is not None or request.method not in ("GET", "HEAD", "DELETE")
    target, written = _head(access, request, content_type=content_type, length_bytes=len(body) if has_body else None)
    return RequestBytes(target, written, body)


def _head(
    access: ProviderAccess, request: UpstreamRequest, *, content_type: str | None, length_bytes: int | None
) -> tuple[Target, bytes]:
    """Where to, and the head. Raises InternalError."""
    try:
        target = target_of(access.url(request), tuple(request.query))
        headers = (*request.headers.items(), *access.auth_headers.items())
        return target, head_bytes(request.method, target, headers, content_type=content_type, length_bytes=length_bytes)
    except ValueError as exc:
        raise InternalError("A request to the provider cannot be written.") from exc


@lru_cache(maxsize=1024)
def target_of(url: str, query: tuple[tuple[str, str], ...] = ()) -> Target:
    """Take an absolute http(s) URL apart. Raises ValueError for anything else."""
    parsed = URL(url)
    raw_host, port, host = parsed.raw_host, parsed.port, parsed.host_port_subcomponent
    if parsed.scheme not in ("http", "https") or not raw_host or not port or not host:
        raise ValueError("not an absolute http or https URL")
    if query:
        parsed = parsed.extend_query(list(query))
    # The host as DNS and TLS want it: IDNA-encoded, an IPv6 address without brackets.
    return Target(Origin(raw_host, port, parsed.scheme == "https"), host, parsed.raw_path_qs or "/")


def head_bytes(
    method: str,
    target: Target,
    headers: Iterable[tuple[str, str]],
    *,
    content_type: str | None,
    length_bytes: int | None,
) -> bytes:
    """Request line and headers. ``length_bytes`` None: no body, and none is announced. Raises ValueError."""
    lines = [f"{name}: {value}" for name, value in headers]
    takes_anything = not any("accept" in line.partition(":")[0].lower() for line in lines)
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    if length_bytes is not None:
        lines.append(f"Content-Length: {length_bytes}")
    fields = "".join(f"{line}\r\n" for line in lines)
    if fields.count("\n") != len(lines) or fields.count("\r") != len(lines) or "\0" in fields:
        raise ValueError("a header of the request holds a line end")
    if takes_anything:
        fields += "Accept: */*\r\n"
    return f"{method} {target.path} HTTP/1.1\r\nHost: {target.host}\r\n{_ALWAYS}{fields}\r\n".encode()


def form_bytes(parts: Sequence[FormPart]) -> tuple[bytes, str]:
    """A multipart body and its content type. Raises ValueError for names that cannot be written."""
    boundary = secrets.token_hex(16)
    pieces: list[bytes] = []
    for part in parts:
        disposition = f'form-data; name="{_quoted(part.name)}"'
        if part.filename is not None:
            disposition += f'; filename="{_quoted(part.filename)}"'
        kind = part.media_type or ("application/octet-stream" if part.filename else "text/plain; charset=utf-8")
        if "\r" in kind or "\n" in kind:
            raise ValueError("a part's media type holds a line end")
        head = f"--{boundary}\r\nContent-Disposition: {disposition}\r\nContent-Type: {kind}\r\n\r\n"
        pieces += [head.encode(), part.value, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return b"".join(pieces), f"multipart/form-data; boundary={boundary}"


def _quoted(text: str) -> str:
    """A name inside quotes, as browsers write it (WHATWG HTML, "Multipart form data")."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _finished_body(body: bytes, request: UpstreamRequest) -> bytes:
    """The body with its new id in place, where the protocol wants one of our making."""
    return body.replace(FRESH_UUID, str(uuid.uuid4()).encode(), 1) if request.needs_fresh_uuid else body
