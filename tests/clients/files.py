"""Small files that clients send."""

from __future__ import annotations

import io
import struct
import wave

from PIL import Image


def png(color: str = "red", side: int = 64) -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), color).save(file, "PNG")
    return file.getvalue()


def wav(seconds: float = 1.5) -> bytes:
    """Silence."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(struct.pack("<h", 0) * int(8000 * seconds))
    return file.getvalue()
