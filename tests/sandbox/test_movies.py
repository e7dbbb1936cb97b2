"""Clips are real files: their boxes and elements, and where ffprobe is there, a decoder's word."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from bitmesh_proxy.sandbox.movies import Box, Movie, MovieFormat, Samples, Sheet, mp4_of, walk, webm_of

FOX = Movie(prompt="a red fox", width=64, height=36, seconds=2, fps=4, max_frames=8)


def boxes_of(data: bytes) -> dict[bytes, Box]:
    return {box.kind: box for box in walk(data)}


def test_an_mp4_is_labelled_as_one() -> None:
    data = FOX.render()
    boxes = boxes_of(data)
    assert data[4:12] == b"ftypisom"
    assert b"av01" in data[boxes[b"ftyp"].body : boxes[b"ftyp"].end]
    assert b"meta" not in boxes
    assert b"edts" not in boxes
    handler = boxes[b"hdlr"].body
    assert data[handler + 8 : handler + 12] == b"vide"


def test_the_samples_are_all_there() -> None:
    data = FOX.render()
    boxes = boxes_of(data)
    samples = Samples.read(data, boxes)
    assert (samples.width, samples.height) == (64, 36)
    assert len(samples.data) == len(samples.ticks) == 8
    assert samples.total_ticks / samples.ticks_per_s == pytest.approx(2.0, abs=0.01)
    assert 1 in samples.key_frames
    assert b"".join(samples.data) == data[boxes[b"mdat"].body : boxes[b"mdat"].end]


@pytest.mark.parametrize(
    ("asked", "frame_size", "frame_count", "duration_s"),
    [
        ({"width": 1280, "height": 720, "max_pixels": 640 * 360}, (640, 360), 8, 2.0),
        ({"width": 33, "height": 21}, (32, 20), 8, 2.0),
        ({"width": 1, "height": 5000}, (16, 5000), 8, 2.0),
        ({"seconds": 0.01}, (64, 36), 2, 0.5),
        ({"seconds": 100000}, (64, 36), 8, 60.0),
        ({"fps": 1}, (64, 36), 2, 2.0),
        ({"fps": -5, "max_frames": 1}, (64, 36), 2, 2.0),
    ],
)
def test_caps_keep_the_proportion_and_the_time(
    asked: dict[str, float], frame_size: tuple[int, int], frame_count: int, duration_s: float
) -> None:
    recipe = replace(FOX, **asked)  # type: ignore[arg-type]  # a table of mixed fields
    assert (recipe.frame_size, recipe.frame_count, recipe.duration_s) == (frame_size, frame_count, duration_s)


def test_a_webm_holds_the_same_samples() -> None:
    sequence = FOX._encode()
    mp4, webm = mp4_of(sequence), webm_of(sequence)
    assert webm[:4] == bytes.fromhex("1a45dfa3")
    assert b"webm" in webm[:64]
    assert b"V_AV1" in webm
    for sample in Samples.read(mp4, boxes_of(mp4)).data:
        assert sample in webm


def test_elements_are_well_formed_to_the_last_byte() -> None:
    data = replace(FOX, format="webm").render()
    names = [name for name, _, _ in elements(data)]
    assert names == [0x1A45DFA3, 0x18538067]
    _, start, end = list(elements(data))[1]
    inside = [name for name, _, _ in elements(data, start, end)]
    assert inside[:2] == [0x1549A966, 0x1654AE6B]
    assert set(inside[2:]) == {0x1F43B675}
    assert end == len(data)


def elements(data: bytes, start: int = 0, end: int | None = None) -> list[tuple[int, int, int]]:
    """Name, start and end of the content of each EBML element at this level."""
    found = []
    end = len(data) if end is None else end
    while start < end:
        width = 9 - data[start].bit_length()
        name = int.from_bytes(data[start : start + width])
        start += width
        width = 9 - data[start].bit_length()
        size = int.from_bytes(data[start : start + width]) & ((1 << 7 * width) - 1)
        found.append((name, start + width, start + width + size))
        start += width + size
    assert start == end
    return found


def test_what_is_not_made_of_boxes_is_refused() -> None:
    with pytest.raises(ValueError, match="has a size of"):
        list(walk(b"\0\0\0\4ftyp"))
    with pytest.raises(ValueError, match="has a size of"):
        list(walk(b"\0\0\xff\xffftyp"))


def test_a_sheet_shows_moments_in_rows() -> None:
    data = Sheet(movie=FOX, columns=3, rows=2).render()
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("WEBP", (192, 72))


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="needs ffprobe")
@pytest.mark.parametrize("form", ["mp4", "webm"])
def test_a_decoder_agrees(form: MovieFormat, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{form}"
    path.write_bytes(replace(FOX, format=form).render())
    command = ["ffprobe", "-v", "warning", "-count_frames", "-show_streams", "-show_format", "-of", "json", str(path)]
    run = subprocess.run(command, capture_output=True, check=True, text=True)
    assert run.stderr == ""
    seen = json.loads(run.stdout)
    stream = seen["streams"][0]
    assert (stream["codec_name"], stream["width"], stream["height"]) == ("av1", 64, 36)
    assert stream["nb_read_frames"] == "8"
    assert float(seen["format"]["duration"]) == pytest.approx(2.0, abs=0.01)
