"""Clips: real MP4 and WebM with an AV1 track, playable in a browser, from Pillow alone.

Pillow writes AVIF image sequences, and such a file is an ISO base media file with an AV1 track already: relabelled it
is an MP4, and its samples in Matroska's framing are a WebM. A clip lasts as long as asked; it has fewer and smaller
frames than asked where the caps say so, because encoding is work.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from bitmesh_proxy.sandbox.pictures import Picture, draw, encode

MovieFormat = Literal["mp4", "webm"]
MEDIA_TYPES: Mapping[MovieFormat, str] = {"mp4": "video/mp4", "webm": "video/webm"}
MAX_SECONDS = 60.0
MIN_FPS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Movie:
    """A clip to be made. ``max_frames`` and ``max_pixels`` (of a frame) cap the work."""

    prompt: str
    width: int
    height: int
    seconds: float
    fps: int = 24
    seed: int = 0
    format: MovieFormat = "mp4"
    note: str = ""
    source: bytes | None = None
    max_frames: int = 48
    max_pixels: int = 640 * 360

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.format]

    @property
    def extension(self) -> str:
        return self.format

    @property
    def frame_size(self) -> tuple[int, int]:
        """What is encoded: as asked, or smaller in the same proportion; even numbers, as codecs like them."""
        scale = min(1.0, (self.max_pixels / (self.width * self.height)) ** 0.5)
        return max(16, round(self.width * scale) // 2 * 2), max(16, round(self.height * scale) // 2 * 2)

    @property
    def frame_count(self) -> int:
        return max(2, min(self.max_frames, round(self.duration_s * max(MIN_FPS, self.fps))))

    @property
    def duration_s(self) -> float:
        return max(0.5, min(MAX_SECONDS, self.seconds))

    def render(self) -> bytes:
        """The file's bytes. Blocks for up to about a second."""
        sequence = self._encode()
        return mp4_of(sequence) if self.format == "mp4" else webm_of(sequence)

    def frame(self, phase: float) -> Picture:
        """The picture at a moment, from 0 to 1."""
        width, height = self.frame_size
        return Picture(
            prompt=self.prompt,
            width=width,
            height=height,
            seed=self.seed,
            note=self.note,
            source=self.source,
            phase=phase,
        )

    def _encode(self) -> bytes:
        count = self.frame_count
        frames = [draw(self.frame(number / count)) for number in range(count)]
        buffer = io.BytesIO()
        # One encoder thread: the sandbox shares its machine with the gateway.
        frames[0].save(
            buffer,
            "AVIF",
            save_all=True,
            append_images=frames[1:],
            duration=round(1000 * self.duration_s / count),
            speed=10,
            quality=55,
            max_threads=1,
        )
        return buffer.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Moments of a clip in one WebP, row by row; one column and one row make a thumbnail."""

    movie: Movie
    columns: int
    rows: int
    media_type: str = "image/webp"
    extension: str = "webp"

    def render(self) -> bytes:
        """The file's bytes. Blocks."""
        from PIL import Image

        width, height = self.movie.frame_size
        sheet = Image.new("RGB", (width * self.columns, height * self.rows))
        count = self.columns * self.rows
        for number in range(count):
            place = (width * (number % self.columns), height * (number // self.columns))
            sheet.paste(draw(self.movie.frame(number / count)), place)
        return encode(sheet, "webp")


# ---------------------------------------------------------------- ISO base media files

CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl"})
#: Bytes before the first child, for boxes that have both.
HEADERS_OF_CONTAINERS: Mapping[bytes, int] = {b"stsd": 8, b"av01": 78}


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Where a box lies: ``start`` of its header, ``body`` after it, ``end`` behind it."""

    kind: bytes
    start: int
    body: int
    end: int


def walk(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """All boxes, parents before children. Raises ValueError for what is not made of boxes."""
    end = len(data) if end is None else end
    while start < end:
        size, kind, header = int.from_bytes(data[start : start + 4]), bytes(data[start + 4 : start + 8]), 8
        if size == 1:
            size, header = int.from_bytes(data[start + 8 : start + 16]), 16
        if size < header or start + size > end:
            raise ValueError(f"box {kind!r} at {start} has a size of {size}")
        box = Box(kind=kind, start=start, body=start + header, end=start + size)
        yield box
        if kind in CONTAINERS or kind in HEADERS_OF_CONTAINERS:
            yield from walk(data, box.body + HEADERS_OF_CONTAINERS.get(kind, 0), box.end)
        start = box.end


def _first_boxes(data: bytes) -> dict[bytes, Box]:
    found: dict[bytes, Box] = {}
    for box in walk(data):
        found.setdefault(box.kind, box)
    return found


def mp4_of(sequence: bytes) -> bytes:
    """An AVIF sequence relabelled as an MP4: brands, handler, durations; picture-only boxes become free space."""
    data, boxes = bytearray(sequence), _first_boxes(sequence)
    brands = [b"iso6", b"isom", b"av01", b"mp41", b"mp42", b"iso2", b"iso5"]
    kind = boxes[b"ftyp"]
    room = (kind.end - kind.body - 8) // 4
    data[kind.body : kind.end] = b"isom" + (512).to_bytes(4) + b"".join((brands * room)[:room])
    for name in (b"meta", b"edts"):  # the still picture's description, and the edit list that loops for ever
        if (box := boxes.get(name)) is not None:
            data[box.start + 4 : box.start + 8] = b"free"
    handler = boxes[b"hdlr"].body
    data[handler + 8 : handler + 12] = b"vide"
    samples = Samples.read(sequence, boxes)
    movie_scale = _full_field(sequence, boxes[b"mvhd"], short=12, long=20, width=4)
    movie_ticks = samples.total_ticks * movie_scale // samples.ticks_per_s
    for name, short, long, value in (
        (b"mdhd", 16, 24, samples.total_ticks),
        (b"tkhd", 20, 28, movie_ticks),
        (b"mvhd", 16, 24, movie_ticks),
    ):
        is_long = data[boxes[name].body] == 1
        place = boxes[name].body + (long if is_long else short)
        width = 8 if is_long else 4
        data[place : place + width] = value.to_bytes(width)
    return bytes(data)


def _full_field(data: bytes, box: Box, *, short: int, long: int, width: int) -> int:
    """A number in a box whose version (its first byte) decides where it stands."""
    place = box.body + (long if data[box.body] == 1 else short)
    return int.from_bytes(data[place : place + width])


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """A track's samples: bytes, durations in ticks, and which are key frames (1-based)."""

    data: tuple[bytes, ...]
    ticks: tuple[int, ...]
    ticks_per_s: int
    key_frames: frozenset[int]
    width: int
    height: int
    codec_private: bytes = field(repr=False)

    @property
    def total_ticks(self) -> int:
        return sum(self.ticks)

    @classmethod
    def read(cls, data: bytes, boxes: Mapping[bytes, Box]) -> Samples:
        """From stsz, stco, stsc, stts and stss of the only track."""
        sizes = _sizes(data, boxes[b"stsz"])
        ticks = [delta for count, delta in _pairs(data, boxes[b"stts"]) for _ in range(count)]
        keys = (
            [number for (number,) in _rows(data, boxes[b"stss"], 1)] if b"stss" in boxes else range(1, len(sizes) + 1)
        )
        entry = boxes[b"av01"].body
        configuration = boxes[b"av1C"]
        return cls(
            data=tuple(_cut(data, boxes, sizes)),
            ticks=tuple(ticks),
            ticks_per_s=_full_field(data, boxes[b"mdhd"], short=12, long=20, width=4),
            key_frames=frozenset(keys),
            width=int.from_bytes(data[entry + 24 : entry + 26]),
            height=int.from_bytes(data[entry + 26 : entry + 28]),
            codec_private=data[configuration.body : configuration.end],
        )


def _rows(data: bytes, box: Box, columns: int) -> Iterator[tuple[int, ...]]:
    """A full box's table of 32-bit numbers."""
    place = box.body + 8
    for _ in range(int.from_bytes(data[box.body + 4 : box.body + 8])):
        yield tuple(int.from_bytes(data[place + 4 * n : place + 4 * n + 4]) for n in range(columns))
        place += 4 * columns


def _pairs(data: bytes, box: Box) -> Iterator[tuple[int, int]]:
    return ((count, delta) for count, delta in _rows(data, box, 2))


def _sizes(data: bytes, box: Box) -> list[int]:
    constant = int.from_bytes(data[box.body + 4 : box.body + 8])
    count = int.from_bytes(data[box.body + 8 : box.body + 12])
    if constant:
        return [constant] * count
    return [int.from_bytes(data[box.body + 12 + 4 * n : box.body + 16 + 4 * n]) for n in range(count)]


def _cut(data: bytes, boxes: Mapping[bytes, Box], sizes: list[int]) -> Iterator[bytes]:
    """Each sample's bytes, chunk by chunk."""
    chunks = [offset for (offset,) in _rows(data, boxes[b"stco"], 1)]
    runs = [(first, count) for first, count, _ in _rows(data, boxes[b"stsc"], 3)]
    sample = 0
    for number, offset in enumerate(chunks, start=1):
        count = next(count for first, count in reversed(runs) if first <= number)
        for size in sizes[sample : sample + count]:
            yield data[offset : offset + size]
            offset += size
        sample += count


# ---------------------------------------------------------------- WebM


def webm_of(sequence: bytes) -> bytes:
    """The samples of an AVIF sequence in Matroska's framing (RFC 9559), one cluster a key frame."""
    samples = Samples.read(sequence, _first_boxes(sequence))
    head = _element(
        0x1A45DFA3,
        _number(0x4286, 1) + _number(0x42F7, 1) + _number(0x42F2, 4) + _number(0x42F3, 8),
        _element(0x4282, b"webm"),
        _number(0x4287, 4) + _number(0x4285, 2),
    )
    milliseconds = 1000 * samples.total_ticks / samples.ticks_per_s
    information = _element(
        0x1549A966,
        _number(0x2AD7B1, 1_000_000),
        _element(0x4489, _float(milliseconds)),
        _element(0x4D80, b"bitmesh-proxy sandbox") + _element(0x5741, b"bitmesh-proxy sandbox"),
    )
    picture = _element(0xE0, _number(0xB0, samples.width) + _number(0xBA, samples.height))
    track = _element(
        0xAE,
        _number(0xD7, 1) + _number(0x73C5, 1) + _number(0x83, 1) + _number(0x9C, 0),
        _element(0x86, b"V_AV1") + _element(0x63A2, samples.codec_private),
        picture,
    )
    segment = _element(0x18538067, information, _element(0x1654AE6B, track), *_clusters(samples))
    return head + segment


def _clusters(samples: Samples) -> Iterator[bytes]:
    blocks: list[bytes] = []
    cluster_ms, ticks = 0, 0
    for number, (data, duration) in enumerate(zip(samples.data, samples.ticks, strict=True), start=1):
        now_ms = 1000 * ticks // samples.ticks_per_s
        is_key = number in samples.key_frames
        # A block's time is 16 bits beside its cluster's.
        if blocks and (is_key or now_ms - cluster_ms > 30_000):
            yield _element(0x1F43B675, _number(0xE7, cluster_ms), *blocks)
            blocks = []
        if not blocks:
            cluster_ms = now_ms
        flags = b"\x80" if is_key else b"\x00"
        blocks.append(_element(0xA3, b"\x81" + (now_ms - cluster_ms).to_bytes(2) + flags + data))
        ticks += duration
    yield _element(0x1F43B675, _number(0xE7, cluster_ms), *blocks)


def _element(identity: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    name = identity.to_bytes((identity.bit_length() + 7) // 8)
    length = next(width for width in range(1, 9) if len(body) < (1 << 7 * width) - 1)
    return name + ((1 << 7 * length) | len(body)).to_bytes(length) + body


def _number(identity: int, value: int) -> bytes:
    return _element(identity, value.to_bytes(max(1, (value.bit_length() + 7) // 8)))


def _float(value: float) -> bytes:
    return struct.pack(">d", value)
