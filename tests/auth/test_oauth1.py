"""OAuth 1.0a against independent signers: the published clients' way, oauthlib's client, requests-oauthlib."""

from __future__ import annotations

from random import Random
from typing import Literal, TypeAlias
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec
import pytest
import requests
from hypothesis import assume, given
from hypothesis import strategies as st
from oauthlib.oauth1 import SIGNATURE_HMAC_SHA1, SIGNATURE_HMAC_SHA256, SIGNATURE_PLAINTEXT, Client
from oauthlib.oauth1.rfc5849 import signature
from requests_oauthlib import OAuth1  # type: ignore[import-untyped]  # ships no types

from bitmesh_proxy.auth import oauth1
from bitmesh_proxy.auth.oauth1 import OAuthRequest, VerifiedOAuth, verify
from bitmesh_proxy.auth.oauth_header import parse_header
from bitmesh_proxy.errors import AuthenticationFailed
from tests.auth import bitmesh_clients

NOW_S = 1_700_000_000
KEY = "ck_0123456789abcdef01234567"
SECRET = "Zm9vYmFy-_~ &=%"
ORIGIN = "https://api.bitmesh.ai"

Method: TypeAlias = Literal["GET", "POST", "DELETE"]


def check(
    authorization: str,
    target: str,
    *,
    method: str = "POST",
    origins: tuple[str, ...] = (ORIGIN,),
    secret: str = SECRET,
    now_s: float = NOW_S,
    window_s: float = 300.0,
) -> VerifiedOAuth:
    request = OAuthRequest(
        method=method, raw_target=target, public_base_urls=origins, header=parse_header(authorization)
    )
    return verify(request, consumer_secret=secret, now_s=now_s, window_s=window_s)


def signed_by_oauthlib(
    url: str,
    method: Method = "POST",
    *,
    algorithm: str = SIGNATURE_HMAC_SHA1,
    secret: str = SECRET,
    nonce: str = "n" * 20,
) -> str:
    client = Client(KEY, client_secret=secret, signature_method=algorithm, timestamp=str(NOW_S), nonce=nonce)
    _, headers, _ = client.sign(url, http_method=method)
    return str(headers["Authorization"])


def header(**changes: str | None) -> str:
    """A well-formed header with parameters changed, added, or (None) left out."""
    values: dict[str, str | None] = {
        "oauth_consumer_key": KEY,
        "oauth_signature_method": "HMAC-SHA1",
        "oauth_timestamp": str(NOW_S),
        "oauth_nonce": "fa0e22d8692912ad",
        "oauth_version": "1.0",
        "oauth_signature": "%2FkWTTE1T%2BMlvbbWZRask6F5fs%2Bw%3D",
        **changes,
    }
    return "OAuth " + ", ".join(f'{name}="{value}"' for name, value in values.items() if value is not None)


class TestCheckValues:
    def test_the_contracts_check_value(self) -> None:
        authorization = (
            'OAuth oauth_consumer_key="ck", oauth_signature_method="HMAC-SHA1", oauth_timestamp="1700000000", '
            'oauth_nonce="abcd1234abcd1234abcd1234abcd1234", oauth_version="1.0", '
            'oauth_signature="a7CpVIS%2FuRWBYBWxYg9kDIwZHl8%3D"'
        )
        verified = check(authorization, "/chat", origins=("https://api.bitmesh.ai",), secret="cs", now_s=1_700_000_000)
        assert verified == VerifiedOAuth(
            consumer_key="ck",
            nonce="abcd1234abcd1234abcd1234abcd1234",
            timestamp_s=1_700_000_000,
            signature="a7CpVIS/uRWBYBWxYg9kDIwZHl8=",
        )

    def test_the_independent_signer_gives_the_same_value(self) -> None:
        nonce = "abcd1234" * 4
        _, signature = bitmesh_clients.authorization(
            "POST", "https://api.bitmesh.ai/chat", key="ck", secret="cs", timestamp_s=1_700_000_000, nonce=nonce
        )
        assert signature == "a7CpVIS/uRWBYBWxYg9kDIwZHl8="

    def test_rfc_5849_example_of_collected_parameters(self) -> None:
        """Section 3.4.1.3.1's query, with its reserved and doubled names, signed by the other implementation."""
        url = "https://api.bitmesh.ai/request?b5=%3D%253D&a3=a&c%40=&a2=r%20b&c2&a3=2+q"
        check(signed_by_oauthlib(url, "GET"), url.removeprefix(ORIGIN), method="GET")


class TestPublishedClients:
    def test_php_header_is_read(self) -> None:
        """As recorded from the PHP client, whose secret is not known."""
        recorded = (
            'OAuth oauth_consumer_key="ck_test_123", oauth_signature_method="HMAC-SHA1", '
            'oauth_timestamp="1795304348", oauth_nonce="fa0e22d8692912ad", oauth_version="1.0", '
            'oauth_signature="%2FkWTTE1T%2BMlvbbWZRask6F5fs%2Bw%3D"'
        )
        parsed = parse_header(recorded)
        assert parsed.consumer_key == "ck_test_123"
        assert parsed.signature == "/kWTTE1T+MlvbbWZRask6F5fs+w="
        assert parsed.nonce == "fa0e22d8692912ad"
        assert parsed.timestamp_s == 1795304348

    def test_signed_by_php_itself(self) -> None:
        """Made with PHP 8.2's rawurlencode and hash_hmac: a host in capitals, an escaped id."""
        authorization = header(
            oauth_consumer_key="ck_test_123",
            oauth_timestamp="1795304348",
            oauth_signature=quote("s3ZnU5bSO7ycf5fcI2ulP0wc4MM=", safe=""),
        )
        origin = "https://API.example.org:8443"
        check(authorization, "/video/job%2F1%20%C3%BC", origins=(origin,), secret="s~ ü", now_s=1795304348)

    @pytest.mark.parametrize(
        ("url", "origins"),
        [
            ("https://api.bitmesh.ai/chat", (ORIGIN,)),
            ("https://API.Bitmesh.AI/chat", ("https://API.Bitmesh.AI",)),
            ("https://api.bitmesh.ai/v1/transcribe-recorded/abc?test=1&test=0", (ORIGIN,)),
            ("https://api.bitmesh.ai:443/chat", ("https://api.bitmesh.ai:443",)),
            ("https://api.bitmesh.ai/chat", ("https://api.bitmesh.ai:443",)),
            # The clients leave these two out whatever the scheme.
            ("http://127.0.0.1:443/chat", ("http://127.0.0.1:443",)),
            ("http://127.0.0.1:3000/chat", ("http://127.0.0.1:3000",)),
            ("http://[::1]:3000/chat", ("http://[::1]:3000",)),
            ("https://api.bitmesh.ai/video/" + quote("job/1 ü:?", safe=""), (ORIGIN,)),
            ("https://api.bitmesh.ai/chat", ("http://10.0.0.7:3000", ORIGIN)),
        ],
    )
    def test_signed_as_the_php_client_does(self, url: str, origins: tuple[str, ...]) -> None:
        authorization, signature = bitmesh_clients.authorization("GET", url, key=KEY, secret=SECRET, timestamp_s=NOW_S)
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        assert check(authorization, target, method="GET", origins=origins).signature == signature

    def test_a_decoded_path_is_another_path(self) -> None:
        url = ORIGIN + "/video/a%2Fb"
        authorization, _ = bitmesh_clients.authorization("GET", url, key=KEY, secret=SECRET, timestamp_s=NOW_S)
        check(authorization, "/video/a%2Fb", method="GET")
        with pytest.raises(AuthenticationFailed, match="signature does not match"):
            check(authorization, "/video/a/b", method="GET")


class TestStandardClients:
    @pytest.mark.parametrize("algorithm", [SIGNATURE_HMAC_SHA1, SIGNATURE_HMAC_SHA256])
    @pytest.mark.parametrize(
        ("url", "origin"),
        [
            ("https://api.bitmesh.ai/chat", "https://api.bitmesh.ai"),
            ("https://API.Bitmesh.AI/chat", "https://API.Bitmesh.AI"),
            ("https://api.bitmesh.ai:443/chat", "https://api.bitmesh.ai:443"),
            ("http://api.bitmesh.ai:80/chat", "http://api.bitmesh.ai:80"),
            ("http://api.bitmesh.ai:443/chat", "http://api.bitmesh.ai:443"),
            ("http://localhost:3000/chat", "http://localhost:3000"),
            ("http://[::1]:3000/chat", "http://[::1]:3000"),
            ("https://api.bitmesh.ai/x?a=1&a=2&b=&a=1", "https://api.bitmesh.ai"),
            ("https://api.bitmesh.ai/x?q=%C3%BC%20%2B%26&plus=a+b", "https://api.bitmesh.ai"),
            ("https://api.bitmesh.ai/video/a%2Fb%20c%C3%BC", "https://api.bitmesh.ai"),
            ("https://api.bitmesh.ai/video/a~b;c=d", "https://api.bitmesh.ai"),
        ],
    )
    def test_signed_by_oauthlib(self, url: str, origin: str, algorithm: str) -> None:
        authorization = signed_by_oauthlib(url, algorithm=algorithm)
        verified = check(authorization, url.removeprefix(origin), origins=(origin,))
        assert verified.consumer_key == KEY

    @pytest.mark.parametrize("algorithm", [SIGNATURE_HMAC_SHA1, SIGNATURE_HMAC_SHA256])
    def test_signed_by_requests_oauthlib_with_a_json_body(self, algorithm: str) -> None:
        """It adds ``oauth_body_hash``, which we do not ask for but which is signed with the rest."""
        auth = OAuth1(
            KEY, client_secret=SECRET, signature_method=algorithm, timestamp=str(NOW_S), force_include_body=True
        )
        prepared = requests.Request(
            "POST",
            ORIGIN + "/v1/image",
            params={"ü": ["1", "ö &"]},
            data='{"prompt":"ü"}',
            headers={"Content-Type": "application/json"},
            auth=auth,
        ).prepare()
        authorization = prepared.headers["Authorization"]
        # requests hands out bytes here.
        text = authorization.decode() if isinstance(authorization, bytes) else authorization
        assert "oauth_body_hash" in text
        assert prepared.url is not None
        check(text, prepared.url.removeprefix(ORIGIN))

    def test_a_realm_is_not_signed(self) -> None:
        client = Client(KEY, client_secret=SECRET, realm="bit mesh", timestamp=str(NOW_S), nonce="n" * 20)
        _, headers, _ = client.sign(ORIGIN + "/chat", http_method="POST")
        assert "realm=" in headers["Authorization"]
        check(headers["Authorization"], "/chat")

    def test_version_may_be_absent(self) -> None:
        parameters = {
            "oauth_consumer_key": KEY,
            "oauth_signature_method": "HMAC-SHA256",
            "oauth_timestamp": str(NOW_S),
            "oauth_nonce": "0123456789abcdef",
        }
        signature = bitmesh_clients.sign("POST", ORIGIN + "/chat", parameters, secret=SECRET, digest="sha256")
        text = ",".join(f'{name}="{quote(value, safe="")}"' for name, value in parameters.items())
        check(f'oauth {text},oauth_signature="{quote(signature, safe="")}"', "/chat")


class TestRefusals:
    @pytest.mark.parametrize(("now_s", "is_good"), [(-301, False), (-300, True), (300, True), (301, False)])
    def test_the_window_reaches_both_ways(self, now_s: int, is_good: bool) -> None:
        authorization = signed_by_oauthlib(ORIGIN + "/chat")
        if is_good:
            check(authorization, "/chat", now_s=NOW_S + now_s)
            return
        with pytest.raises(AuthenticationFailed, match="timestamp is too far"):
            check(authorization, "/chat", now_s=NOW_S + now_s)

    def test_the_window_is_a_parameter(self) -> None:
        authorization = signed_by_oauthlib(ORIGIN + "/chat")
        with pytest.raises(AuthenticationFailed, match="timestamp is too far"):
            check(authorization, "/chat", now_s=NOW_S + 11, window_s=10)

    @pytest.mark.parametrize(
        ("changes", "fault"),
        [
            ({"oauth_consumer_key": None}, "no oauth_consumer_key"),
            ({"oauth_signature_method": None}, "no oauth_signature_method"),
            ({"oauth_timestamp": None}, "no oauth_timestamp"),
            ({"oauth_nonce": None}, "no oauth_nonce"),
            ({"oauth_signature": None}, "no oauth_signature"),
            ({"oauth_signature": ""}, "no oauth_signature"),
            ({"oauth_signature": "abc"}, "signature is malformed"),
            ({"oauth_signature_method": "PLAINTEXT"}, "HMAC-SHA1 or HMAC-SHA256"),
            ({"oauth_signature_method": "RSA-SHA1"}, "HMAC-SHA1 or HMAC-SHA256"),
            ({"oauth_signature_method": "HMAC-SHA512"}, "HMAC-SHA1 or HMAC-SHA256"),
            ({"oauth_version": "2.0"}, "version must be 1.0"),
            ({"oauth_version": ""}, "version must be 1.0"),
            ({"oauth_token": "t"}, "tokens are not used"),
            ({"oauth_timestamp": "-5"}, "whole seconds"),
            ({"oauth_timestamp": "1700000000.5"}, "whole seconds"),
            ({"oauth_timestamp": "١٧٠٠٠٠٠٠٠٠"}, "malformed"),
            ({"oauth_timestamp": "%D9%A1%D9%A7"}, "whole seconds"),
            ({"oauth_timestamp": "9" * 500}, "whole seconds"),
            ({"oauth_nonce": "short"}, "nonce must be"),
            ({"oauth_nonce": "n" * 129}, "nonce must be"),
            ({"oauth_nonce": "with%20space"}, "nonce must be"),
            ({"oauth_consumer_key": "a%27b"}, "consumer key is malformed"),
            ({"oauth_nonce": "%zz345678"}, "percent-encoded"),
            ({"oauth_nonce": "%ff345678"}, "not UTF-8"),
            ({"oauth%5Fnonce": "12345678"}, "twice"),
        ],
    )
    def test_a_faulty_header_says_which_fault(self, changes: dict[str, str | None], fault: str) -> None:
        with pytest.raises(AuthenticationFailed, match=fault):
            parse_header(header(**changes))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "OAuth",
            "OAuth ",
            "OAuth ,",
            "Basic dTpw",
            "OAuth oauth_nonce=unquoted",
            'OAuth oauth_nonce="open',
            'OAuth oauth_nonce="a" oauth_version="1.0"',
            'OAuth oauth_nonce="\udce9"',
            'OAuth oauth_nonce="a\x00b"',
            "OAuth " + 'a="b",' * 1000,
        ],
    )
    def test_a_malformed_header_is_an_authentication_failure(self, text: str) -> None:
        with pytest.raises(AuthenticationFailed):
            parse_header(text)

    def test_a_doubled_parameter_is_refused(self) -> None:
        with pytest.raises(AuthenticationFailed, match="twice"):
            parse_header(header() + ', oauth_nonce="another-nonce"')

    def test_plaintext_of_a_real_client_is_refused(self) -> None:
        with pytest.raises(AuthenticationFailed, match="HMAC-SHA1 or HMAC-SHA256"):
            check(signed_by_oauthlib(ORIGIN + "/chat", algorithm=SIGNATURE_PLAINTEXT), "/chat")

    def test_oauth_parameters_in_the_query_are_refused(self) -> None:
        target = "/chat?oauth_consumer_key=other"
        with pytest.raises(AuthenticationFailed, match="header only"):
            check(header(), target)

    @pytest.mark.parametrize("target", ["/chat#fragment", "/chat ", "/ü", "chat", "/chat\n", "*"])
    def test_a_target_that_no_client_signs_is_refused(self, target: str) -> None:
        with pytest.raises(AuthenticationFailed, match="percent-encoded"):
            check(header(), target)

    def test_a_query_that_is_not_utf8_is_refused(self) -> None:
        with pytest.raises(AuthenticationFailed, match="not UTF-8"):
            check(header(), "/chat?a=%FF")

    @pytest.mark.parametrize("origins", [(), ("",), ("nonsense",), ("http://[",), ("http://h:99999",)])
    def test_an_impossible_public_address_verifies_nothing(self, origins: tuple[str, ...]) -> None:
        with pytest.raises(AuthenticationFailed, match="signature does not match"):
            check(signed_by_oauthlib(ORIGIN + "/chat"), "/chat", origins=origins)

    def test_the_message_quotes_nothing_of_the_request(self) -> None:
        for changes in ({"oauth_nonce": "planted"}, {"oauth_signature": "planted"}, {"oauth_consumer_key": "planted'"}):
            with pytest.raises(AuthenticationFailed) as failure:
                parse_header(header(**changes))
            assert "planted" not in failure.value.message

    def test_the_signature_stays_out_of_the_repr(self) -> None:
        parsed = parse_header(header())
        assert parsed.signature not in repr(parsed)


_names = st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
    lambda name: not name.startswith("oauth_")
)
_values = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
_paths = st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=4).map(
    lambda segments: "/" + "/".join(quote(segment, safe="") for segment in segments)
)
_queries = st.lists(st.tuples(_names, _values), max_size=4).map(
    lambda pairs: "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)
)


class TestProperties:
    @given(
        path=_paths,
        query=_queries,
        secret=_values,
        algorithm=st.sampled_from([SIGNATURE_HMAC_SHA1, SIGNATURE_HMAC_SHA256]),
        method=st.sampled_from(["GET", "POST", "DELETE"]),
        nonce=st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=128),
        data=st.data(),
    )
    def test_signed_is_verified_and_changed_is_refused(
        self, path: str, query: str, secret: str, algorithm: str, method: Method, nonce: str, data: st.DataObject
    ) -> None:
        target = path + (f"?{query}" if query else "")
        text = signed_by_oauthlib(ORIGIN + target, method, algorithm=algorithm, secret=secret, nonce=nonce)
        check(text, target, method=method, secret=secret)

        changed = _change_one(data, target)
        # `+` for `%20`, `%2a` for `%2A`: another writing of the same query. The path is compared as it is written.
        assume(changed.partition("?")[0] != path or parse_qsl(changed.partition("?")[2]) != parse_qsl(query))
        with pytest.raises(AuthenticationFailed):
            check(text, changed, method=method, secret=secret)
        with pytest.raises(AuthenticationFailed):
            check(text, target, method=method, secret=secret + "x")
        with pytest.raises(AuthenticationFailed):
            check(text, target, method="PUT", secret=secret)

    @given(data=st.data())
    def test_a_changed_header_is_refused(self, data: st.DataObject) -> None:
        text = signed_by_oauthlib(ORIGIN + "/chat?a=1")
        original = parse_header(text)
        changed = "OAuth " + _change_one(data, text.removeprefix("OAuth "))
        try:
            parsed = parse_header(changed)
        except AuthenticationFailed:
            return
        # Blanks, and a realm, are not part of what is signed.
        if msgspec.structs.replace(parsed, signed=()) == msgspec.structs.replace(original, signed=()) and sorted(
            parsed.signed
        ) == sorted(original.signed):
            return
        with pytest.raises(AuthenticationFailed):
            check(changed, "/chat?a=1")

    @given(text=st.text(max_size=200) | st.text(alphabet='oauth_nce=", %1Az\\', max_size=80).map("OAuth ".__add__))
    def test_no_header_raises_anything_else(self, text: str) -> None:
        with pytest.raises(AuthenticationFailed):
            parse_header(text)

    @given(target=st.text(max_size=60) | st.text(alphabet="/?&=%;+aé\udce9#", max_size=30).map("/".__add__))
    def test_no_target_raises_anything_else(self, target: str) -> None:
        with pytest.raises(AuthenticationFailed):
            check(header(), target)


def _change_one(data: st.DataObject, text: str) -> str:
    """One character replaced by another visible one, left out, or put in."""
    position = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.characters(min_codepoint=33, max_codepoint=126))
    kind = data.draw(st.sampled_from(["replace", "drop", "insert"]))
    changed = {
        "replace": text[:position] + letter + text[position + 1 :],
        "drop": text[:position] + text[position + 1 :],
        "insert": text[:position] + letter + text[position:],
    }[kind]
    assume(changed != text)
    return changed


# ---------------------------------------------------------------- what is remembered of a base string

_texts = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["THE-NONCE", "THE-TIMESTAMPx", "~", "&="]
)
_visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8, max_size=20)


@given(
    rest=st.dictionaries(_texts.filter(lambda name: name not in dict(oauth1._VARYING)), _texts, max_size=4),
    nonces=st.lists(_visible | st.sampled_from(["THE-NONCE", "THE-CONSUMER-KEY"]), min_size=2, max_size=3),
    order=st.randoms(use_true_random=False),
    url=st.sampled_from([ORIGIN + "/chat", ORIGIN + "/THE-NONCE", "http://[::1]:3000/a%20b"]),
    method=st.sampled_from(["POST", "GET", "the-nonce"]),
    left_out=st.sampled_from([*dict(oauth1._VARYING), ""]),
    reading=st.lists(st.tuples(_texts, _texts), max_size=2),
)
def test_a_base_string_is_the_librarys_whatever_is_remembered(
    rest: dict[str, str],
    nonces: list[str],
    order: Random,
    url: str,
    method: str,
    left_out: str,
    reading: list[tuple[str, str]],
) -> None:
    """A second request like the first is put together from what the library made for that."""
    for number, nonce in enumerate(nonces):
        varying = {"oauth_consumer_key": f"ck_{number}", "oauth_nonce": nonce, "oauth_timestamp": str(NOW_S + number)}
        signed = [pair for pair in (rest | varying).items() if pair[0] != left_out]
        order.shuffle(signed)
        made = oauth1._base_string(method, url, signed, reading)
        normalized = signature.normalize_parameters([*signed, *reading])  # type: ignore[arg-type]  # pairs will do
        assert made == signature.signature_base_string(method, url, normalized)  # type: ignore[arg-type]  # any method


def test_no_key_is_part_of_what_is_remembered() -> None:
    oauth1._around_varying.cache_clear()
    for number in range(5):
        client = Client(f"ck_{number}", client_secret=SECRET, timestamp=str(NOW_S + number))
        _, headers, _ = client.sign(ORIGIN + "/chat", http_method="POST")
        assert check(str(headers["Authorization"]), "/chat").consumer_key == f"ck_{number}"
    assert oauth1._around_varying.cache_info()[:2] == (4, 1)
