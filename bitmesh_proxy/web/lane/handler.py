"""aiohttp's connection of the server, as its own ``__init__`` leaves it, made for a fifth of what that takes.

Most connections of the lane never need more of it than a place among the server's, and streams come on connections of
their own. So what settings decide is copied from one that aiohttp has made (``like``), the rest is written down here,
and the parser is made when there is something to be parsed. ``tests/web/lane/test_handler.py`` holds every slot
against aiohttp's own; ``pyproject.toml`` bounds the version.
"""

from __future__ import annotations

from collections import deque

from aiohttp import web
from aiohttp.http import HttpRequestParser
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from bitmesh_proxy.web.unreadable import JsonRefusals


class Handler(JsonRefusals):
    """See the module's docstring."""

    __slots__ = ("_auto_decompress",)

    def __init__(  # not super's: that is the point
        self, like: RequestHandler, auto_decompress: bool, *, max_head_bytes: int
    ) -> None:
        self._auto_decompress = auto_decompress
        self._max_head_bytes, self._head_bytes, self._last_body = max_head_bytes, 0, EMPTY_PAYLOAD
        # What settings decide, and what stands for a version of aiohttp.
        self._loop = like._loop
        self._manager = like._manager
        self._request_handler = like._request_handler
        self._request_factory = like._request_factory
        self._max_msg_queue_size = like._max_msg_queue_size
        self._msg_queue_resume_size = like._msg_queue_resume_size
        self._read_bufsize = like._read_bufsize
        self.max_line_size = like.max_line_size
        self.max_headers = like.max_headers
        self.max_field_size = like.max_field_size
        self._tcp_keepalive = like._tcp_keepalive
        self._keepalive_timeout = like._keepalive_timeout
        self._lingering_time = like._lingering_time
        self._timeout_ceil_threshold = like._timeout_ceil_threshold
        self.logger = like.logger
        self.debug = like.debug
        self.access_log = like.access_log
        self.access_logger = like.access_logger
        self._logging_enabled = like._logging_enabled
        # What each connection has of its own.
        self.transport = self._parser = self._payload_parser = self._current_request = None
        self._waiter = self._handler_waiter = self._drain_waiter = None
        self._task_handler = self._keepalive_handle = self._data_received_cb = None
        self._paused = self._reading_paused = self._buffer_paused = self._upgraded = False
        self._close = self._force_close = self._request_in_progress = False
        self._keepalive = True
        self._request_count = 0
        self._next_keepalive_close_time = 0.0
        self._messages = deque()
        self._message_tail = b""
        self._cache = {}

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._parser is None and self._manager is not None:  # which goes with the connection
            self._parser = HttpRequestParser(
                self,
                self._loop,
                self._read_bufsize,
                max_line_size=self.max_line_size,
                max_field_size=self.max_field_size,
                max_headers=self.max_headers,
                payload_exception=web.RequestPayloadError,
                auto_decompress=self._auto_decompress,
                max_msg_queue_size=self._max_msg_queue_size,
            )
        super().data_received(data)
