"""The payload signature: bytes as sent, nothing, or the canonical JSON of a form's fields."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.auth.payload_signature import (
    MAX_FIELD_DEPTH,
    canonical_form,
    payload_signature,
    verify_fields_signature,
    verify_payload_signature,
)
from bitmesh_proxy.errors import AuthenticationFailed
from tests.auth import bitmesh_clients

KEY = "ck_test_123"
OAUTH_SIGNATURE = "/kWTTE1T+MlvbbWZRask6F5fs+w="


def signed(body: bytes) -> str:
    return bitmesh_clients.payload_signature(body, key=KEY, signature=OAUTH_SIGNATURE)


class TestBody:
    def test_known_value(self) -> None:
        """`printf '{}ck/w=' | sha256sum`."""
        assert (
            payload_signature(b"{}", consumer_key="ck", oauth_signature="/w=")
            == "bf71d063c43d258b19ba0d458ac35688d5c0385897187349d8f88803455f7a24"
        )

    @pytest.mark.parametrize("body", [b"", b'{"a": "\xc3\xbc/"}', b"\x00\xff" * 1000])
    def test_the_bytes_as_sent(self, body: bytes) -> None:
        verify_payload_signature(signed(body), body, consumer_key=KEY, oauth_signature=OAUTH_SIGNATURE)

    def test_get_signs_the_empty_string(self) -> None:
        verify_payload_signature(signed(b""), consumer_key=KEY, oauth_signature=OAUTH_SIGNATURE)

    @pytest.mark.parametrize("received", [None, ""])
    def test_missing(self, received: str | None) -> None:
        with pytest.raises(AuthenticationFailed, match="needs the header X-Payload-Signature"):
            verify_payload_signature(received, b"{}", consumer_key=KEY, oauth_signature=OAUTH_SIGNATURE)

    @pytest.mark.parametrize(
        "received", [signed(b"{ }"), signed(b"{}").upper(), signed(b"{}")[:-1], signed(b"{}") + "0", "é", "\udce9"]
    )
    def test_wrong(self, received: str) -> None:
        with pytest.raises(AuthenticationFailed, match="does not match"):
            verify_payload_signature(received, b"{}", consumer_key=KEY, oauth_signature=OAUTH_SIGNATURE)

    def test_it_is_tied_to_key_and_signature(self) -> None:
        with pytest.raises(AuthenticationFailed):
            verify_payload_signature(signed(b"{}"), b"{}", consumer_key="other", oauth_signature=OAUTH_SIGNATURE)
        with pytest.raises(AuthenticationFailed):
            verify_payload_signature(signed(b"{}"), b"{}", consumer_key=KEY, oauth_signature="other")


class TestCanonicalForm:
    @pytest.mark.parametrize(
        ("fields", "form"),
        [
            ([("b", "2"), ("a", "1")], '{"a":"1","b":"2"}'),
            ([("prompt", "Grüße / 🎈"), ("n", "1")], '{"n":"1","prompt":"Grüße / 🎈"}'),
            ([("q", 'a"b\\c\n\t\x01\x7f')], '{"q":"a\\"b\\\\c\\n\\t\\u0001\x7f"}'),
            ([("speech_models[0]", "universal-3-pro"), ("speech_models[1]", "universal-2")],
             '{"speech_models":["universal-3-pro","universal-2"]}'),
            ([("speech_models[]", "a"), ("speech_models[]", "b")], '{"speech_models":["a","b"]}'),
            ([("a[b][c]", "1"), ("a[b][d]", "2")], '{"a":{"b":{"c":"1","d":"2"}}}'),
            ([("a[0][x]", "1"), ("a[1][x]", "2")], '{"a":[{"x":"1"},{"x":"2"}]}'),
            ([("a[][x]", "1"), ("a[][x]", "2")], '{"a":[{"x":"1"},{"x":"2"}]}'),
            # Only the top is sorted.
            ([("z", "1"), ("a[z]", "2"), ("a[b]", "3")], '{"a":{"z":"2","b":"3"},"z":"1"}'),
            # Not consecutive, not from 0, not in order, not written as an index: an object.
            ([("a[0]", "x"), ("a[2]", "y")], '{"a":{"0":"x","2":"y"}}'),
            ([("a[1]", "x")], '{"a":{"1":"x"}}'),
            ([("a[1]", "x"), ("a[0]", "y")], '{"a":{"1":"x","0":"y"}}'),
            ([("a[00]", "x")], '{"a":{"00":"x"}}'),
            # The top is an object whatever its keys.
            ([("0", "x"), ("1", "y")], '{"0":"x","1":"y"}'),
            # Strings stay strings.
            ([("test", "true"), ("n", "1"), ("x", "")], '{"n":"1","test":"true","x":""}'),
            # The last one counts.
            ([("a", "1"), ("a", "2")], '{"a":"2"}'),
            ([("a", "1"), ("a[b]", "2")], '{"a":{"b":"2"}}'),
            ([("a[b]", "1"), ("a", "2")], '{"a":"2"}'),
            # Brackets that do not add up belong to the name.
            ([("a[b", "1")], '{"a[b":"1"}'),
            ([("a]b[", "1")], '{"a]b[":"1"}'),
            ([("[a]", "1")], '{"[a]":"1"}'),
            ([("a[b]c", "1")], '{"a[b]c":"1"}'),
            ([("", "1")], '{"":"1"}'),
            ([], "{}"),
        ],
    )  # fmt: skip
    def test_form(self, fields: list[tuple[str, str]], form: str) -> None:
        assert canonical_form(fields).decode() == form

    def test_keys_sort_by_code_point(self) -> None:
        fields = [(name, "") for name in ("é", "b", "B", "_", "10", "9", "\U0001f388", "\uffef")]
        assert list(json.loads(canonical_form(fields))) == ["10", "9", "B", "_", "b", "é", "\uffef", "\U0001f388"]

    def test_too_deep(self) -> None:
        canonical_form([("a" + "[b]" * (MAX_FIELD_DEPTH - 1), "1")])
        with pytest.raises(AuthenticationFailed, match="too deeply"):
            canonical_form([("a" + "[b]" * 100_000, "1")])

    def test_text_that_is_no_unicode(self) -> None:
        with pytest.raises(AuthenticationFailed, match="not UTF-8"):
            canonical_form([("a", "\udce9")])

    @given(fields=st.lists(st.tuples(st.text(alphabet="ab01[]é\n", max_size=12), st.text(max_size=4)), max_size=8))
    def test_any_fields_have_a_form(self, fields: list[tuple[str, str]]) -> None:
        form = json.loads(canonical_form(fields))
        assert list(form) == sorted(form)

    @given(
        data=st.dictionaries(
            st.text(alphabet="abé_/", min_size=1, max_size=4),
            st.recursive(
                st.text(max_size=6),
                lambda inner: (
                    st.lists(inner, min_size=1, max_size=3)
                    | st.dictionaries(st.text(alphabet="xyé_", min_size=1, max_size=3), inner, min_size=1, max_size=3)
                ),
                max_leaves=8,
            ),
            max_size=4,
        )
    )
    def test_what_a_client_flattens_is_put_back_together(self, data: dict[str, object]) -> None:
        fields = [pair for name, value in data.items() for pair in flatten(name, value)]
        signed_by_client = json.dumps(dict(sorted(data.items())), ensure_ascii=False, separators=(",", ":"))
        assert canonical_form(fields) == signed_by_client.encode()


class TestFields:
    def test_signed_fields(self) -> None:
        fields = [("task_type", "async"), ("resolution", "-1"), ("restore_face", "true")]
        received = signed(b'{"resolution":"-1","restore_face":"true","task_type":"async"}')
        verify_fields_signature(received, fields, consumer_key=KEY, oauth_signature=OAUTH_SIGNATURE)
        with pytest.raises(AuthenticationFailed):
            verify_fields_signature(received, fields[:2], consumer_key=KEY, oauth_signature=OAUTH_SIGNATURE)

    @pytest.mark.parametrize("form", [b"{}", b"[]"])
    def test_a_form_of_files_alone(self, form: bytes) -> None:
        """Python writes an empty object, PHP an empty list."""
        verify_fields_signature(signed(form), [], consumer_key=KEY, oauth_signature=OAUTH_SIGNATURE)

    @pytest.mark.parametrize("form", ['{"a":"x\u2028y\u2029"}', '{"a":"x\\u2028y\\u2029"}'])
    def test_line_separators_as_python_and_as_php_write_them(self, form: str) -> None:
        fields = [("a", "x\u2028y\u2029")]
        verify_fields_signature(signed(form.encode()), fields, consumer_key=KEY, oauth_signature=OAUTH_SIGNATURE)

    def test_missing(self) -> None:
        with pytest.raises(AuthenticationFailed, match="needs the header"):
            verify_fields_signature(None, [], consumer_key=KEY, oauth_signature=OAUTH_SIGNATURE)


def flatten(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Nested data as bracketed form fields, as clients send them."""
    if isinstance(value, str):
        yield name, value
        return
    assert isinstance(value, list | dict)
    items = enumerate(value) if isinstance(value, list) else value.items()
    for key, child in items:
        yield from flatten(f"{name}[{key}]", child)
