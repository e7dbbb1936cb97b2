"""Where providers' results lie: the configured addresses of each provider, and its short links. Pure.

A short link (Together's ``https://api.together.ai/shrt/{id}``) keeps its id when it is handed out. Its address is built
again from the configuration when it is fetched, never from what a request or an answer said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from bitmesh_proxy.media.ids import is_media_id
from bitmesh_proxy.media.origins import Origin, origin_of


class ResultSource(msgspec.Struct, frozen=True, kw_only=True):
    """One provider as this room sees it.

    ``origins`` are those of its configured base URLs: only they ever see its credential, and they may be private.
    ``short_base`` is what its short links begin with, up to the id (``https://api.together.ai/shrt/``); empty if it has
    none. ``short_url`` recognises them under the provider's public names too, its first group being the id.
    """

    provider: str
    origins: frozenset[Origin]
    short_base: str = ""
    short_url: re.Pattern[str] | None = None

    def short_id_of(self, url: str) -> str | None:
        """The id of a short link of this provider; None for any other link."""
        if not self.short_base:
            return None
        if url.startswith(self.short_base):
            media_id = url[len(self.short_base) :]
        else:
            match = self.short_url.fullmatch(url) if self.short_url is not None else None
            media_id = match[1] if match is not None else ""
        return media_id if is_media_id(media_id) else None

    def short_link(self, media_id: str) -> str:
        """The link behind a short id. Raises ValueError for what is no id."""
        if not self.short_base or not is_media_id(media_id):
            raise ValueError("not a short id of this provider")
        return self.short_base + media_id


def make_source(
    provider: str,
    roots: Mapping[str, str],
    *,
    own_roots: Mapping[str, str] | None = None,
    short_url: re.Pattern[str] | None = None,
    short_path: str = "",
) -> ResultSource:
    """A provider's source, from its configured base URLs (``roots``) and those it has by itself (``own_roots``).

    ``short_path`` (``/shrt/``) counts from the host that the provider is known under. A configured base URL may put a
    prefix before the provider's own paths (``http://127.0.0.1:9000/together/v1`` for ``https://api.together.ai/v1``);
    the short links then lie behind the same prefix.
    """
    own_path = urlsplit((own_roots or roots)["default"]).path
    prefix = roots["default"].rstrip("/").removesuffix(own_path.rstrip("/"))
    return ResultSource(
        provider=provider,
        origins=frozenset(origin_of(url) for url in roots.values()),
        short_base=prefix + short_path if short_path else "",
        short_url=short_url,
    )
