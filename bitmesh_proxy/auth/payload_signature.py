"""``X-Payload-Signature``: ties the body of an OAuth request to its signature, which does not cover it.

Hex SHA-256, lower case, of *body* + *consumer key* + *OAuth signature before percent-encoding*. For JSON the body is
the bytes as sent, for GET it is empty, for multipart it is a canonical JSON of the fields that are no files. No secret
goes into it: what stops a replay with another body is the nonce, burnt afterwards.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from multidict import MultiMapping

from bitmesh_proxy.errors import AuthenticationFailed

HEADER = "X-Payload-Signature"

#: PHP reads no deeper either (``max_input_nesting_level``).
MAX_FIELD_DEPTH = 64

_BRACKETED = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])+)")
_KEY = re.compile(r"\[([^\[\]]*)\]")

_Tree: TypeAlias = "dict[str, str | _Tree]"
_Json: TypeAlias = "str | list[_Json] | dict[str, _Json]"


def sent_signature(headers: MultiMapping[str]) -> str | None:
    """What a caller has sent, if anything. Two different ones are refused, as two credentials are: whichever we took, a
    proxy in between might have looked at the other. Raises AuthenticationFailed."""
    sent = headers.getall(HEADER, ())
    if len(set(sent)) > 1:
        raise AuthenticationFailed("The request carries more than one payload signature.")
    return sent[0] if sent else None


def payload_signature(body: bytes, *, consumer_key: str, oauth_signature: str) -> str:
    """What a caller has to send. Hashes the whole body: half a millisecond for each 512 KiB or so."""
    digest = hashlib.sha256(body)
    digest.update(consumer_key.encode())
    digest.update(oauth_signature.encode())
    return digest.hexdigest()


def verify_payload_signature(
    received: str | None, body: bytes = b"", *, consumer_key: str, oauth_signature: str
) -> None:
    """For JSON (the bytes as sent) and GET (none). Raises AuthenticationFailed if the header is missing or wrong."""
    _verify_any(received, (body,), consumer_key=consumer_key, oauth_signature=oauth_signature)


def verify_fields_signature(
    received: str | None, fields: Sequence[tuple[str, str]], *, consumer_key: str, oauth_signature: str
) -> None:
    """For multipart: ``fields`` are the parts that are no files, in order. Raises AuthenticationFailed."""
    _verify_any(received, _accepted_forms(fields), consumer_key=consumer_key, oauth_signature=oauth_signature)


def canonical_form(fields: Sequence[tuple[str, str]]) -> bytes:
    """The JSON that a caller signs in place of a multipart body.

    Bracketed names are put back together (``a[b][c]``, ``a[0]``, and ``a[]`` for the next index); consecutive integer
    keys from 0 make a list; values stay strings. Only the keys at the top are sorted, what lies deeper keeps its order.
    No spaces; neither slashes nor non-ASCII are escaped. Of a name that stands there twice the last one counts.

    Raises AuthenticationFailed for nesting beyond ``MAX_FIELD_DEPTH`` and for text that is not Unicode.
    """
    tree: _Tree = {}
    for name, value in fields:
        _place(tree, _path_of(name), value)
    ordered = {key: _close(tree[key]) for key in sorted(tree)}
    try:
        return json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise AuthenticationFailed("The form's fields cannot be verified: they are not UTF-8.") from None


def _verify_any(received: str | None, bodies: Sequence[bytes], *, consumer_key: str, oauth_signature: str) -> None:
    if not received:
        raise AuthenticationFailed(f"A request signed with OAuth needs the header {HEADER}.")
    for body in bodies:
        expected = payload_signature(body, consumer_key=consumer_key, oauth_signature=oauth_signature)
        if hmac.compare_digest(expected.encode(), received.encode("utf-8", "surrogateescape")):
            return
    raise AuthenticationFailed("The payload signature does not match.")


def _accepted_forms(fields: Sequence[tuple[str, str]]) -> tuple[bytes, ...]:
    """The canonical form, and how else the same fields come out of PHP's ``json_encode``."""
    if not fields:
        # An array without entries is a list to PHP and an object to Python. Both say: no fields.
        return (b"{}", b"[]")
    form = canonical_form(fields)
    # PHP escapes these two even if told not to escape Unicode: JSON_UNESCAPED_LINE_TERMINATORS is a flag of its own.
    in_php = form.replace("\u2028".encode(), b"\\u2028").replace("\u2029".encode(), b"\\u2029")
    return (form,) if in_php == form else (form, in_php)


def _path_of(name: str) -> list[str]:
    """``a[b][0]`` → ``["a", "b", "0"]``. A name whose brackets do not add up is a plain name."""
    found = _BRACKETED.fullmatch(name)
    if found is None:
        return [name]
    keys: Iterator[str] = (key[1] for key in _KEY.finditer(found[2]))
    path = [found[1], *keys]
    if len(path) > MAX_FIELD_DEPTH:
        raise AuthenticationFailed("The form's fields are nested too deeply.")
    return path


def _place(tree: _Tree, path: Sequence[str], value: str) -> None:
    for key in path[:-1]:
        key = key or _next_index(tree)
        branch = tree.get(key)
        if not isinstance(branch, dict):
            branch = {}
            tree[key] = branch
        tree = branch
    tree[path[-1] if len(path) == 1 else path[-1] or _next_index(tree)] = value


def _next_index(tree: _Tree) -> str:
    """The key that an empty bracket stands for: one more than the largest integer key so far."""
    return str(max((int(key) for key in tree if key.isascii() and key.isdigit()), default=-1) + 1)


def _close(node: str | _Tree) -> _Json:
    if isinstance(node, str):
        return node
    if list(node) == [str(index) for index in range(len(node))]:
        return [_close(child) for child in node.values()]
    return {key: _close(child) for key, child in node.items()}
