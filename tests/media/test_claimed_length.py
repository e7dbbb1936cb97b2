"""What compressed sounds say of their length, true and made up."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitmesh_proxy.media.claimed_length import claimed_length_s

OPUS = b"OpusHead\x01\x01\x38\x01" + struct.pack("<IHB", 16_000, 0, 0)
VORBIS = b"\x01vorbis" + struct.pack("<IBI", 0, 2, 44_100) + bytes(14)
SPEEX = b"Speex   " + bytes(28) + struct.pack("<I", 8_000) + bytes(40)


def page(packet: bytes = b"", *, samples: int = 0) -> bytes:
    return b"OggS\0\0" + struct.pack("<qIIIB", samples, 1, 0, 0, 1) + bytes([len(packet)]) + packet


def streaminfo(rate: int = 16_000, samples: int = 0) -> bytes:
    return bytes(10) + struct.pack(">Q", rate << 44 | samples) + bytes(16)


def flac(rate: int = 16_000, samples: int = 0) -> bytes:
    return b"fLaC\x80\0\0\x22" + streaminfo(rate, samples)


def box(name: bytes, *content: bytes, is_long: bool = False) -> bytes:
    inner = b"".join(content)
    if is_long:
        return struct.pack(">I4sQ", 1, name, 16 + len(inner)) + inner
    return struct.pack(">I4s", 8 + len(inner), name) + inner


def mp4(*of_moov: bytes) -> bytes:
    before = box(b"ftyp", b"M4A ") + box(b"free") + box(b"mdat", bytes(50), is_long=True)  # as ffmpeg writes it
    return before + box(b"moov", *of_moov)


def mvhd(scale: int, units: int, *, version: int = 0) -> bytes:
    form = ">B3x16xIQ80x" if version else ">B3x8xII80x"
    return box(b"mvhd", struct.pack(form, version, scale, units))


def element(name: int, content: bytes) -> bytes:
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + (1 << 56 | len(content)).to_bytes(8, "big") + content


def webm(*info: bytes, size: bytes = b"\x01\xff\xff\xff\xff\xff\xff\xff") -> bytes:
    """A segment of unknown size, as browsers record it."""
    inner = element(0x114D9B74, b"seek") + element(0x1549A966, b"".join(info)) + element(0x1F43B675, bytes(9))
    return element(0x1A45DFA3, b"\x42\x82\x84webm") + b"\x18\x53\x80\x67" + size + inner


@pytest.mark.parametrize(
    ("data", "length_s"),
    [
        (page(OPUS) + page(samples=-1) + page(b"x", samples=480_000) + page(samples=-1), 10.0),
        (page(VORBIS) + page(b"x", samples=88_200), 2.0),
        (page(SPEEX) + page(b"x", samples=24_000), 3.0),
        (page(b"\x7fFLAC\x01\0\0\x01fLaC\0\0\0\x22" + streaminfo(8_000)) + page(samples=8_000), 1.0),
        (flac(16_000, 16_000 * 86_400), 86_400.0),
        (mp4(mvhd(1000, 90_500)), 90.5),
        (mp4(box(b"udta", b"x"), mvhd(48_000, 1 << 40, version=1)), (1 << 40) / 48_000),
        (mp4(mvhd(1000, 0), box(b"mvex", box(b"mehd", struct.pack(">II", 0, 7_000)))), 7.0),
        (mp4(mvhd(1000, 0), box(b"mvex", box(b"mehd", struct.pack(">B3xQ", 1, 7_000)))), 7.0),
        (webm(element(0x4489, struct.pack(">d", 2_500.0))), 2.5),
        (webm(element(0x2AD7B1, b"\x03\xe8"), element(0x4489, struct.pack(">f", 5e6)), size=b"\xc8"), 5.0),
    ],
)
def test_what_a_sound_says_of_its_length(data: bytes, length_s: float) -> None:
    assert claimed_length_s(data) == pytest.approx(length_s)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ID3" + bytes(100),
        b"OggS",
        page(OPUS),
        page(OPUS) + page(samples=-1) * 100,
        page(b"\x80theora" + bytes(40)) + page(samples=9),
        page(VORBIS.replace(struct.pack("<I", 44_100), bytes(4))) + page(samples=9),
        flac(),
        flac(0, 9),
        flac()[:20],
        mp4(),
        mp4(mvhd(1000, 0xFFFFFFFF)),
        mp4(mvhd(0, 9)),
        mp4(mvhd(1000, 0)),
        box(b"ftyp", b"M4A ") + box(b"mdat", bytes(50)),
        box(b"ftyp", b"M4A ") + struct.pack(">I4s", 4, b"moov") * 3,
        webm(),
        webm(element(0x4489, struct.pack(">d", float("inf")))),
        webm(element(0x4489, struct.pack(">d", float("nan")))),
        webm(element(0x4489, struct.pack(">d", -1.0))),
        webm(element(0x4489, b"abc")),
        webm(element(0x2AD7B1, bytes([255]) * 200 + bytes(8)), element(0x4489, struct.pack(">d", 0.0))),
        b"\x1a\x45\xdf\xa3",
    ],
)
def test_what_is_not_said_or_cannot_be_is_none(data: bytes) -> None:
    assert claimed_length_s(data) is None


@given(
    st.sampled_from([b"", page(OPUS), b"fLaC", mp4(mvhd(1, 9)), b"\0\0\0\x08ftyp", webm(), b"\x1a\x45\xdf\xa3"]),
    st.binary(max_size=200),
    st.integers(0, 300),
)
@example(b"\0\0\0\x08ftyp", b"\0\0\0\x09moov\0", 300)
@example(b"\0\0\0\x08ftyp", box(b"moov", box(b"mvhd", b"\1")), 300)
def test_no_bytes_make_it_fail(before: bytes, after: bytes, size: int) -> None:
    claimed_length_s((before + after)[:size])
