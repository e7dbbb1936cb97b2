"""What is remembered of headers changes nothing in how they are read. (How they are read: ``test_oauth1.py``.)"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from hypothesis import assume, given
from hypothesis import strategies as st

from bitmesh_proxy.auth import oauth_header
from bitmesh_proxy.errors import AuthenticationFailed

_spaces = st.sampled_from(["", " ", "\t", "  "])
_pieces = st.tuples(
    _spaces,
    st.sampled_from(["oauth_nonce", "oauth_signature", "realm", "x", "x%41", "x%4", "", "a b", "oauth_token"]),
    _spaces,
    st.sampled_from(["=", "", "=="]),
    _spaces,
    st.sampled_from(['"', "", '""']),
    st.text(alphabet="ab%234DFB +/=,é\\\x00\t", max_size=8)
    | st.sampled_from(["%2Bab%2F%3D", "%252B", "%3d", "%C3%A9"]),
    st.sampled_from(['"', "", '""']),
    _spaces,
    st.sampled_from([",", ", ", "", ",,"]),
).map("".join)
_likely = st.lists(
    st.tuples(
        st.sampled_from(["a", "realm", "oauth_nonce", "b%2B"]),
        st.text(alphabet="ab%234DFB +/=,é", max_size=8) | st.sampled_from(["%2Bab%2F%3D", "%252B", "%3d", "%C3%A9"]),
    ).map(lambda pair: f'{pair[0]}="{pair[1]}"'),
    max_size=4,
).map(", ".join)


@given(
    scheme=st.sampled_from(["OAuth ", "oauth ", "OAuth\t", " OAuth ", "Bearer ", "OAuth", ""]),
    rest=_likely | st.lists(_pieces, max_size=4).map("".join),
    end=st.sampled_from(["", ",", " ", "x" * oauth_header.MAX_HEADER_CHARS]),
)
def test_what_is_remembered_of_a_header_does_not_change_how_it_is_read(scheme: str, rest: str, end: str) -> None:
    def outcome(read: Callable[[str], list[tuple[str, str]]]) -> list[tuple[str, str]] | str:
        try:
            return read(scheme + rest + end)
        except AuthenticationFailed as exc:
            return str(exc)

    expected = outcome(oauth_header._read_parameters)
    assert outcome(oauth_header._parameters_of) == expected
    assert outcome(oauth_header._parameters_of) == expected


@given(text=st.text(alphabet="%23DFBb+/=5", max_size=16))
def test_escapes_of_base64_are_decoded_as_any_others(text: str) -> None:
    assume(not oauth_header._BAD_ESCAPE.search(text))
    try:
        expected = unquote(text, errors="strict")
    except UnicodeDecodeError:
        return
    assert oauth_header._decode(text) == expected
