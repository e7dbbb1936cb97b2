"""The official Python client, both of it, for servers on this machine."""

from __future__ import annotations

import ssl

import openai

#: Nothing is encrypted here, and to read who may vouch for a server takes longer than most calls.
_NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def asynchronous(base_url: str, key: str = "k") -> openai.AsyncOpenAI:
    """A client that tries nothing twice."""
    http = openai.DefaultAsyncHttpxClient(verify=_NO_AUTHORITIES)
    return openai.AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0, http_client=http)


def synchronous(base_url: str, key: str = "k") -> openai.OpenAI:
    """As ``asynchronous``, for threads."""
    http = openai.DefaultHttpxClient(verify=_NO_AUTHORITIES)
    return openai.OpenAI(api_key=key, base_url=base_url, max_retries=0, http_client=http)
