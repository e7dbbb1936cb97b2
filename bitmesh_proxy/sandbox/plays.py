"""What a play is: one provider's HTTP API as the sandbox performs it.

A ``Play`` is data: a name (its prefix), routes, and how the provider reads a credential and words an error. A route's
handler gets an ``Ask`` that has passed authentication, size, JSON, directives and schema, and answers through
``replies``; it raises ``Refused`` for what the provider refuses, and never builds an error body itself.

New provider: one file with a ``PLAY``, a line in ``registry.PLAYS``, and its request schemas in ``schemas/``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from bitmesh_proxy.sandbox.faults import Directives
from bitmesh_proxy.sandbox.schemas import Violation
from bitmesh_proxy.sandbox.stage import Stage

Json = Any  # what a JSON parser gives; looked into only after the schema passed


class Refused(Exception):
    """The provider says no. ``kind`` is the word for the error's type in the provider's own vocabulary."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file of a multipart form."""

    name: str
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request to a play. ``body`` is parsed JSON, or the form's plain fields coerced to the schema's types.

    ``prompt`` is the text without markers. ``files`` holds a form's files by field name, ``[]`` cut off.
    """

    request: web.Request
    stage: Stage
    play: Play
    body: Json = None
    files: Mapping[str, tuple[Upload, ...]] = field(default_factory=dict)
    prompt: str = ""
    directives: Directives = field(default_factory=Directives)

    @property
    def origin(self) -> str:
        """``http://host:port`` as the client named it."""
        return f"{self.request.scheme}://{self.request.host}"


Handler = Callable[[Ask], Awaitable[web.StreamResponse]]


def no_prompt(body: Json) -> str:
    """For requests without a text of the caller's."""
    return ""


def text_at(field_name: str) -> Callable[[Json], str]:
    """The prompt is this field, when it is a string (or a list of which the first string counts)."""

    def read(body: Json) -> str:
        value = body.get(field_name)
        if isinstance(value, list):
            value = next((item for item in value if isinstance(item, str)), "")
        return value if isinstance(value, str) else ""

    return read


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. ``schema`` names the packaged schema of a JSON body, ``form_schema`` that of a multipart form.

    Without either there is no body. ``is_list``: the JSON body is an array. ``is_public`` needs no credential.
    """

    method: str
    path: str
    handler: Handler
    schema: str | None = None
    form_schema: str | None = None
    prompt: Callable[[Json], str] = no_prompt
    is_list: bool = False
    is_public: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """A provider. ``credential`` finds the key in the headers, ``render_refusal`` gives the error's JSON body.

    ``answer_headers`` are those that the provider puts on every answer, and a refusal has them when it is rendered;
    ``moderated`` is its refusal of a prompt (None: its handlers play that, as it is no error there), ``missing_model``
    of a model, ``refuse_violation`` of a body that its schema does not allow.
    """

    name: str
    routes: tuple[Route, ...]
    credential: Callable[[Mapping[str, str]], str | None]
    missing_credential: Callable[[], Refused]
    bad_credential: Callable[[str], Refused]
    render_refusal: Callable[[Refused], Json]
    refuse_violation: Callable[[Violation], Refused]
    missing_model: Callable[[str], Refused]
    moderated: Callable[[], Refused] | None
    answer_headers: Callable[[Stage], Mapping[str, str]]


def bearer(headers: Mapping[str, str]) -> str | None:
    """The key of ``Authorization: Bearer KEY``; None when there is none."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None
