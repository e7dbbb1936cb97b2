"""Log lines: one JSON object each for machines, or plain text for people at a terminal.

Secrets and prompts never reach a log: callers and keys are named by id, bodies are not logged, and a last net replaces
anything that looks like one of our tokens or an authorization value.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Any, TextIO

import orjson
from aiohttp.http_exceptions import HttpProcessingError

from bitmesh_proxy.log_outlet import handler_for
from bitmesh_proxy.settings import Logging

ACCESS = logging.getLogger("bitmesh_proxy.access")

_SECRET = re.compile(
    r"bm_[A-Za-z0-9_-]{16,}|(?i:bearer|oauth)\s+[^\s,\"']{8,}[^\"']*|oauth_signature=\S+|sk-[A-Za-z0-9_-]{16,}"
)
#: What a terminal may obey: all of C0 but the line's end, DEL, C1, and what turns the direction of writing.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def redact(text: str) -> str:
    """Replace what looks like a secret."""
    return _SECRET.sub("[redacted]", text)


def cause_of(error: BaseException) -> str:
    """What an error comes from, as far as it may be said: an exception of reading holds what was read, of which a
    caller's whole body may be a part, and only its name is."""
    cause = error.__cause__
    return type(cause).__name__ if isinstance(cause, UnicodeError | HttpProcessingError) else repr(cause)


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """``{"at", "level", "logger", "message", …extras, "error"}`` in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line: dict[str, Any] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return redact(_CONTROL.sub(_escape, orjson.dumps(line, default=str).decode()))


class TextFormatter(logging.Formatter):
    """``12:00:01 info  message  key=value`` for people.

    Callers write parts of it (a path holds whatever they like, percent-encoded): none of that ends a line or tells a
    terminal anything.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line of text (more for a traceback)."""
        extras = "".join(f"  {key}={value}" for key, value in _extras(record).items() if value is not None)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        text = f"{record.getMessage()}{extras}".replace("\n", "\\n")
        text = f"{clock} {record.levelname.lower():<7} {_CONTROL.sub(_escape, text)}"
        if record.exc_info:
            text += "\n" + _CONTROL.sub(_escape, self.formatException(record.exc_info))
        return redact(text)


class QuietMalformedRequests(logging.Filter):
    """One short line for what is no HTTP: anybody can send it, and a traceback would quote its headers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record; never drops one."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args, record.exc_info = f"refused what is no HTTP: {type(error).__name__}", (), None
        return True


_QUIET = QuietMalformedRequests()


def set_up_logs(settings: Logging, stream: TextIO | None = None) -> None:
    """Send everything to ``stream`` (standard error) in the configured form."""
    target = stream or sys.stderr
    as_text = settings.format == "text" or (settings.format == "auto" and target.isatty())
    handler = handler_for(target)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    logging.getLogger("aiohttp.server").addFilter(_QUIET)
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, root.level))
    ACCESS.disabled = not settings.access_log
