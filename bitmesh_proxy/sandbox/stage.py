"""What all plays share: clock, chance, options, faults, files, jobs, the studio and the record of requests.

Everything here is bounded. Nothing here knows a provider.
"""

from __future__ import annotations

import random
import string
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bitmesh_proxy.sandbox.faults import Faults
from bitmesh_proxy.sandbox.jobs import JobBook
from bitmesh_proxy.sandbox.prompt_cache import PromptCache
from bitmesh_proxy.sandbox.shelf import Shelf
from bitmesh_proxy.sandbox.studio import Studio


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the sandbox behaves when nothing else is said. The defaults are for tests: no waiting."""

    token_interval_s: float = 0.0
    #: From a job's creation to its end; a quarter of it in the queue.
    job_duration_s: float = 0.0
    #: A clip has at most so many frames and pixels a frame, whatever is asked: drawing is work.
    max_movie_frames: int = 24
    max_movie_pixels: int = 320 * 180
    max_picture_pixels: int = 4096 * 4096
    #: Refuse fields that the published request schema does not name, also where it is open.
    is_strict: bool = False
    max_body_bytes: int = 256 * 1024 * 1024
    keep_requests: int = 256
    #: Larger bodies are recorded as None.
    keep_body_bytes: int = 256 * 1024
    keep_files: int = 4096
    keep_jobs: int = 4096
    keep_prompts: int = 4096
    keep_rendered_bytes: int = 64 * 1024 * 1024
    image_link_lifetime_s: float = 3600.0
    video_link_lifetime_s: float = 86400.0


@dataclass(slots=True, kw_only=True)
class Received:
    """One request as it came. Filled on as it goes: ``status`` and ``ended_at`` when it is over.

    ``headers`` have lower-case names; a credential is replaced by ``***``. ``body`` is parsed JSON, or a form's plain
    fields (files as ``{"filename", "content_type", "size"}``), or None. ``cancelled``: the client closed early.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    received_at: float
    body: Any = None
    status: int | None = None
    ended_at: float | None = None
    cancelled: bool = False


ID_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """See the module's docstring. ``clock`` gives seconds since 1970."""

    clock: Callable[[], float]
    options: Options
    faults: Faults
    rng: random.Random
    shelf: Shelf
    jobs: JobBook
    studio: Studio
    prompts: PromptCache
    requests: deque[Received] = field(default_factory=deque)

    def new_id(self, length: int, alphabet: str = ID_ALPHABET) -> str:
        return "".join(self.rng.choices(alphabet, k=length))

    def now(self) -> int:
        """Whole seconds, as most providers write times."""
        return int(self.clock())


def make_stage(clock: Callable[[], float], faults: Faults, options: Options, rng: random.Random) -> Stage:
    return Stage(
        clock=clock,
        options=options,
        faults=faults,
        rng=rng,
        shelf=Shelf(max_files=options.keep_files),
        jobs=JobBook(max_jobs=options.keep_jobs),
        studio=Studio(keep_bytes=options.keep_rendered_bytes),
        prompts=PromptCache(max_prompts=options.keep_prompts),
        requests=deque(maxlen=options.keep_requests),
    )
