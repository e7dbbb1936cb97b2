"""One-legged OAuth over the wire, as the published clients send it: by hand, by PHP, and through nginx."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest
from multidict import CIMultiDict

from bitmesh_proxy import keys
from bitmesh_proxy.storage.keys import KeyStore
from tests.auth.bitmesh_clients import authorization, payload_signature
from tests.journeys.gateway import (
    CHAT_MODEL,
    Answer,
    Gateway,
    chat,
    open_books,
    raw_call,
    running_gateway,
    until,
    video,
)
from tests.test_nginx import free_port, nginx_before

pytestmark = pytest.mark.journey

needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
PHP = shutil.which("php")


def has_php_with_curl() -> bool:
    if PHP is None:
        return False
    return "curl" in subprocess.run([PHP, "-m"], capture_output=True, text=True).stdout.split()


def signed(
    gateway: Gateway,
    method: str,
    url: str,
    body: bytes = b"",
    *,
    timestamp_s: int | None = None,
    nonce: str | None = None,
    covers: bytes | None = None,
) -> dict[str, str]:
    """The PHP client's headers, in its order. ``covers`` is what the payload signature is made over."""
    header, signature = authorization(
        method,
        url,
        key=gateway.key.consumer_key,
        secret=gateway.key.consumer_secret,
        timestamp_s=int(time.time()) if timestamp_s is None else timestamp_s,
        nonce=nonce or secrets.token_hex(8),
    )
    headers = {"Authorization": header, "Accept": "application/json"}
    if method != "GET":
        headers["Content-Type"] = "application/json"
    headers["User-Agent"] = "BitmeshPhpSdk/1.0"
    headers["X-Payload-Signature"] = payload_signature(
        body if covers is None else covers, key=gateway.key.consumer_key, signature=signature
    )
    return headers


async def send(gateway: Gateway, method: str, path: str, body: bytes = b"", **how: Any) -> Answer:
    headers = signed(gateway, method, gateway.url + path, body, **how)
    return await gateway.call(method, path, data=body or None, headers=headers)


def php_json(value: object) -> bytes:
    """Slashes and Unicode unescaped, no spaces: as the PHP client encodes its bodies."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


async def test_a_signed_response_is_refused_in_its_own_words(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"limits": {"endpoint_per_minute": {"responses": 1}}}) as gateway:
        assert (
            await send(gateway, "POST", "/v1/responses", php_json({"model": CHAT_MODEL, "input": "hi"}))
        ).status == 200
        refused = await send(gateway, "POST", "/v1/responses", php_json(chat()))
        assert (refused.status, refused.json["error"]["type"]) == (429, "rate_limit_error")


@pytest.mark.both_ways
async def test_a_signed_conversation_from_test_to_clip(gateway: Gateway) -> None:
    assert (await send(gateway, "GET", "/test")).json == {"message": "you are the man"}
    said = await send(gateway, "POST", "/v1/chat", php_json(chat("Grüße/aus Köln")))
    assert said.status == 200
    made = await send(gateway, "POST", "/video", php_json(video()))
    assert made.status == 200
    job_id = quote(made.json["id"], safe="-._~")
    shown = await send(gateway, "GET", f"/video/{job_id}")
    assert (shown.status, shown.json["id"]) == (200, made.json["id"])
    await gateway.last_row()
    await gateway.check_books()


@pytest.mark.both_ways
async def test_of_two_payload_signatures_none_is_chosen(gateway: Gateway) -> None:
    body = php_json(chat())
    for other, status in (("0" * 64, 401), (None, 200)):
        headers = CIMultiDict(signed(gateway, "POST", gateway.url + "/chat", body))
        headers.add("X-Payload-Signature", other or headers["X-Payload-Signature"])
        async with gateway.http.post(gateway.url + "/chat", data=body, headers=headers) as answer:
            assert answer.status == status
            if other:
                assert await answer.json() == {"error": "The request carries more than one payload signature."}
    await gateway.last_row()
    await gateway.check_books()


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/v1/videos", "limit", "1"),
        ("/v1/videos", "order", "asc"),
        ("/v1/credits", "by_api_key", "false"),
        ("/v1/responses/{id}", "stream", "false"),
        ("/v1/responses/{id}/input_items", "limit", "1"),
    ],
)
async def test_of_a_query_only_what_was_signed_is_read(gateway: Gateway, path: str, name: str, value: str) -> None:
    """Clients sign the last value of a name; somebody on the way may write another one in front of it."""
    made = await send(gateway, "POST", "/v1/responses", php_json({"model": CHAT_MODEL, "input": "Hello"}))
    path = path.format(id=made.json["id"])
    headers = signed(gateway, "GET", f"{gateway.url}{path}?{name}={value}")
    answer = await gateway.call("GET", f"{path}?{name}=true&{name}={value}", headers=headers)
    assert answer.status == 200
    assert "usage_by_api_key" not in answer.json


@pytest.mark.parametrize("is_rotated", [False, True])
async def test_a_signed_connection_ends_with_its_key(gateway: Gateway, is_rotated: bool) -> None:
    turn = {"type": "response.create", "model": CHAT_MODEL, "input": "[[sandbox: tokens=2]] Hello"}
    url = gateway.url + "/v1/responses"
    async with gateway.http.ws_connect(url, headers=signed(gateway, "GET", url)) as socket:
        for _ in range(2):
            await socket.send_json(turn)
            while (message := await socket.receive_json(timeout=8))["type"] != "response.completed":
                assert message["type"].startswith("response."), message
        store = KeyStore(gateway.app[keys.DATABASE])
        await (store.rotate(gateway.key.id, token_digest=b"x" * 32) if is_rotated else store.disable(gateway.key.id))
        await socket.send_json(turn)
        assert (await socket.receive_json(timeout=8))["status"] == 401


async def test_an_escaped_id_is_signed_as_it_is_sent(gateway: Gateway) -> None:
    """On the wire byte for byte, since a client library might write the path anew."""
    path = "/video/a%20b%2Fc"
    async with raw_call(gateway, "GET", path, headers=signed(gateway, "GET", gateway.url + path)) as (reader, _):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 ")
        assert orjson.loads(await reader.read(4096)) == {"error": "Video job not found"}


@pytest.mark.both_ways
async def test_a_nonce_is_good_once_also_after_a_restart(tmp_path: Path) -> None:
    body = php_json(chat())
    how = {"timestamp_s": int(time.time()), "nonce": "fa0e22d8692912ad"}
    async with running_gateway(tmp_path) as gateway:
        headers = signed(gateway, "POST", "http://ai.example.org/chat", body, **how)  # type: ignore[arg-type]
        headers["X-Forwarded-Host"] = "ai.example.org"
        assert (await gateway.call("POST", "/chat", data=body, headers=headers)).status == 200
        again = await gateway.call("POST", "/chat", data=body, headers=headers)
        assert (again.status, again.json) == (401, {"error": "The OAuth nonce was already used."})
    async with running_gateway(tmp_path) as gateway:
        again = await gateway.call("POST", "/chat", data=body, headers=headers)
        assert (again.status, again.json) == (401, {"error": "The OAuth nonce was already used."})
        assert gateway.upstream_calls() == []
        await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize("off_s", [-400, 400])
async def test_a_stale_timestamp_is_refused(gateway: Gateway, off_s: int) -> None:
    answer = await send(gateway, "POST", "/chat", php_json(chat()), timestamp_s=int(time.time()) + off_s)
    assert answer.status == 401
    assert "timestamp" in answer.json["error"].lower()
    assert gateway.upstream_calls() == []


@pytest.mark.both_ways
async def test_another_body_than_was_signed_is_refused_and_burns_nothing(gateway: Gateway) -> None:
    body, nonce, now_s = php_json(chat()), secrets.token_hex(8), int(time.time())
    wrong = await send(gateway, "POST", "/chat", body, covers=b"{}", nonce=nonce, timestamp_s=now_s)
    assert (wrong.status, wrong.json) == (401, {"error": "The payload signature does not match."})
    headers = signed(gateway, "POST", gateway.url + "/chat", body)
    del headers["X-Payload-Signature"]
    missing = await gateway.call("POST", "/chat", data=body, headers=headers)
    assert missing.status == 401
    assert "X-Payload-Signature" in missing.json["error"]
    right = await send(gateway, "POST", "/chat", body, nonce=nonce, timestamp_s=now_s)
    assert right.status == 200
    assert len(gateway.upstream_calls()) == 1
    await gateway.check_books()


@pytest.mark.parametrize("change", ["secret", "method", "path", "host"])
async def test_what_was_not_signed_is_refused(gateway: Gateway, change: str) -> None:
    url = {"path": gateway.url + "/image", "host": "http://elsewhere.example.org/chat"}.get(
        change, gateway.url + "/chat"
    )
    body = php_json(chat())
    headers = signed(gateway, "GET" if change == "method" else "POST", url, body)
    if change == "secret":
        other = await gateway.new_key()
        headers["Authorization"] = headers["Authorization"].replace(gateway.key.consumer_key, other.consumer_key)
    answer = await gateway.call("POST", "/chat", data=body, headers={**headers, "Content-Type": "application/json"})
    assert answer.status == 401
    assert gateway.upstream_calls() == []


@pytest.mark.both_ways
async def test_a_disabled_key_signs_in_vain(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway, open_books(tmp_path) as outside:
        assert (await send(gateway, "GET", "/test")).status == 200
        await KeyStore(outside.database).disable(gateway.key.id)
        assert (await send(gateway, "GET", "/test")).status == 401


async def test_a_forms_fields_are_what_is_signed(gateway: Gateway) -> None:
    """No route takes a form yet, so a good signature gets as far as being told so, and a bad one does not."""

    def form() -> aiohttp.FormData:
        fields = aiohttp.FormData()
        fields.add_field("b", "2")
        fields.add_field("a[0]", "x/é")
        fields.add_field("a[1]", "y")
        fields.add_field("image", b"\x89PNG" * 1000, filename="x.png", content_type="image/png")
        return fields

    canonical = '{"a":["x/é","y"],"b":"2"}'.encode()
    for covers, status in ((canonical, 415), (canonical.replace(b"2", b"3"), 401)):
        headers = signed(gateway, "POST", gateway.url + "/chat", covers=covers)
        del headers["Content-Type"]
        answer = await gateway.call("POST", "/chat", data=form(), headers=headers)
        assert answer.status == status
        assert answer.json["error"]


@needs_nginx
async def test_through_nginx_a_signature_is_made_for_its_name(gateway: Gateway, tmp_path: Path) -> None:
    async with nginx_before(gateway.port, tmp_path) as front:
        body = php_json(chat())
        headers = signed(gateway, "POST", str(front / "chat"), body)
        async with gateway.http.post(front / "chat", data=body, headers=headers) as answer:
            assert answer.status == 200
            assert (await answer.json())["choices"]
        headers = signed(gateway, "POST", "http://ai.example.org/chat", body)
        async with gateway.http.post(
            front / "chat", data=body, headers={**headers, "Host": "ai.example.org"}
        ) as answer:
            assert answer.status == 200
        headers = signed(gateway, "POST", gateway.url + "/chat", body)  # the address behind it is not what callers see
        async with gateway.http.post(front / "chat", data=body, headers=headers) as answer:
            assert answer.status == 401
        await gateway.check_books()


#: An nginx whose administrator set nothing but the address: its buffers are on.
DEFAULTS = """daemon off; master_process off; pid {directory}/pid; events {{}}
http {{
    access_log off; {temporary}
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://127.0.0.1:{upstream_port}; proxy_http_version 1.1; }}
    }}
}}
"""


@pytest.fixture
async def default_nginx(gateway: Gateway, tmp_path: Path) -> AsyncIterator[str]:
    port = free_port()
    kinds = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    temporary = " ".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    config = tmp_path / "nginx.conf"
    config.write_text(DEFAULTS.format(directory=tmp_path, temporary=temporary, port=port, upstream_port=gateway.port))
    process = await asyncio.create_subprocess_exec(
        "nginx", "-c", config, "-p", tmp_path, "-e", "stderr", stdin=asyncio.subprocess.DEVNULL
    )

    async def is_there() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return False
        writer.close()
        return True

    try:
        await until(is_there, "nginx listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


@needs_nginx
async def test_events_pass_a_buffering_nginx_one_by_one(gateway: Gateway, default_nginx: str) -> None:
    """The first events are read while the upstream waits for us: had nginx kept them back, this would stand still."""
    gateway.fault("tokens=6 stall_after=3:60")
    body = chat(stream=True, max_tokens=6)
    async with gateway.http.post(default_nginx + "/chat", json=body, headers=gateway.bearer) as answer:
        received = b""
        async with asyncio.timeout(8):
            while received.count(b"\n\n") < 3:
                received += await answer.content.readany()
        assert b"[DONE]" not in received
        assert gateway.upstream_calls()[0].ended_at is None
    assert (await gateway.last_row()).outcome == "caller_left"
    await gateway.check_books()


PHP_CLIENT = r"""<?php
[$_, $url, $key, $secret, $method, $body] = $argv;
$oauth = ['oauth_consumer_key' => $key, 'oauth_signature_method' => 'HMAC-SHA1', 'oauth_timestamp' => (string) time(),
    'oauth_nonce' => bin2hex(random_bytes(8)), 'oauth_version' => '1.0'];
$parameters = $oauth;
ksort($parameters);
$pairs = [];
foreach ($parameters as $name => $value) { $pairs[] = rawurlencode($name) . '=' . rawurlencode($value); }
$parts = parse_url($url);
$port = isset($parts['port']) ? ':' . $parts['port'] : '';
$base = $parts['scheme'] . '://' . $parts['host'] . $port . $parts['path'];
$text = $method . '&' . rawurlencode($base) . '&' . rawurlencode(implode('&', $pairs));
$signature = base64_encode(hash_hmac('sha1', $text, rawurlencode($secret) . '&', true));
$oauth['oauth_signature'] = $signature;
$header = [];
foreach ($oauth as $name => $value) { $header[] = $name . '="' . rawurlencode($value) . '"'; }
$headers = ['Authorization: OAuth ' . implode(', ', $header), 'Accept: application/json'];
if ($method !== 'GET') { $headers[] = 'Content-Type: application/json'; }
$headers[] = 'User-Agent: BitmeshPhpSdk/1.0';
$headers[] = 'X-Payload-Signature: ' . hash('sha256', $body . $key . $signature);
$curl = curl_init($url);
curl_setopt_array($curl, [CURLOPT_RETURNTRANSFER => true, CURLOPT_CUSTOMREQUEST => $method,
    CURLOPT_HTTPHEADER => $headers, CURLOPT_TIMEOUT => 8]);
if ($method !== 'GET') { curl_setopt($curl, CURLOPT_POSTFIELDS, $body); }
$answer = curl_exec($curl);
echo json_encode(['status' => curl_getinfo($curl, CURLINFO_HTTP_CODE), 'body' => json_decode($answer, true)]);
"""


@pytest.mark.skipif(not has_php_with_curl(), reason="PHP with curl is not installed")
async def test_a_client_written_in_php_gets_its_answers(gateway: Gateway, tmp_path: Path) -> None:
    script = tmp_path / "client.php"
    script.write_text(PHP_CLIENT)

    async def from_php(method: str, path: str, body: bytes = b"") -> dict[str, Any]:
        credentials = (gateway.key.consumer_key, gateway.key.consumer_secret)
        process = await asyncio.create_subprocess_exec(
            str(PHP), script, gateway.url + path, *credentials, method, body, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        answer: dict[str, Any] = json.loads(output)
        return answer

    assert await from_php("GET", "/test") == {"status": 200, "body": {"message": "you are the man"}}
    said = await from_php("POST", "/chat", php_json(chat("Grüße/aus Köln")))
    assert said["status"] == 200
    assert said["body"]["choices"][0]["message"]["content"]
    assert gateway.upstream_calls()[-1].body["messages"][0]["content"] == "Grüße/aus Köln"
    refused = await from_php("POST", "/chat", php_json({"messages": "x"}))
    assert (refused["status"], refused["body"]["error"]) == (422, "Validation failed")
    await gateway.last_row()
    await gateway.check_books()


async def test_the_published_check_value_of_a_payload_signature(gateway: Gateway) -> None:
    """The digest is over body, consumer key and the signature as base64, one after another."""
    headers = signed(gateway, "GET", gateway.url + "/test")
    signature = headers["Authorization"].rpartition('oauth_signature="')[2].rstrip('"')
    raw = signature.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=")
    expected = hashlib.sha256(f"{gateway.key.consumer_key}{raw}".encode()).hexdigest()
    assert headers["X-Payload-Signature"] == expected
    assert (await gateway.call("GET", "/test", headers=headers)).status == 200
