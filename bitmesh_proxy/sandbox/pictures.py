"""Pictures: real PNG, JPEG and WebP of any size, the same for the same recipe, plainly marked as the sandbox's.

Pillow is imported when the first picture is drawn, so that a server without a sandbox does not pay for it.
"""

from __future__ import annotations

import io
import math
import random
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

PictureFormat = Literal["png", "jpeg", "webp"]
MEDIA_TYPES: Mapping[PictureFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
EXTENSIONS: Mapping[PictureFormat, str] = {"png": "png", "jpeg": "jpg", "webp": "webp"}
MARK = "SANDBOX"
SHAPES = 9
#: A source picture is kept at most this large on either side: it appears as an inset.
INSET_SIDE = 512
MAX_SOURCE_PIXELS = 64_000_000
MAX_CAPTION_CHARACTERS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture to be drawn. ``source`` is a thumbnail (see ``make_thumbnail``) of what is edited.

    ``phase`` from 0 to 1 moves the drawing, for films; ``detail`` from 0 to 1 blurs it, for partial pictures.
    """

    prompt: str
    width: int
    height: int
    seed: int = 0
    format: PictureFormat = "png"
    note: str = ""
    source: bytes | None = None
    phase: float = 0.0
    detail: float = 1.0
    is_transparent: bool = False

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.format]

    @property
    def extension(self) -> str:
        return EXTENSIONS[self.format]

    def render(self) -> bytes:
        """The file's bytes. Blocks."""
        return encode(draw(self), self.format)


def draw(recipe: Picture) -> Image.Image:
    """The picture in memory."""
    from PIL import Image, ImageDraw, ImageFilter

    size = (recipe.width, recipe.height)
    rng = random.Random(sha256(f"{recipe.seed}\n{recipe.prompt}".encode()).digest())  # noqa: S311 (art)
    hue = rng.randrange(360)
    image = _ground(size, hue, angle=rng.randrange(360) + 360 * recipe.phase)
    layer = Image.new("RGBA", size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    for _ in range(SHAPES):
        _shape(pen, rng, size, hue, recipe.phase)
    image.paste(layer, (0, 0), layer)
    if recipe.detail < 1.0:
        image = image.filter(ImageFilter.GaussianBlur((1.0 - recipe.detail) * min(size) / 12))
    if recipe.source is not None:
        _paste_inset(image, recipe.source)
    _write(image, recipe)
    if recipe.is_transparent and recipe.format != "jpeg":
        image.putalpha(_vignette(size))
    return image


def encode(image: Image.Image, form: PictureFormat) -> bytes:
    """The picture as a file. Blocks."""
    buffer = io.BytesIO()
    if form == "png":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text("Software", "bitmesh-proxy sandbox")
        image.save(buffer, "PNG", compress_level=3, pnginfo=info)
    elif form == "jpeg":
        image.convert("RGB").save(buffer, "JPEG", quality=88, comment="bitmesh-proxy sandbox")
    else:
        image.save(buffer, "WEBP", quality=85, method=2)
    return buffer.getvalue()


def make_thumbnail(data: bytes) -> bytes:
    """A small PNG of a picture that a caller sent. Blocks. Raises ValueError for what is not a picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_SOURCE_PIXELS:
                raise ValueError(f"a picture of {image.width}x{image.height} is too large")
            image.thumbnail((INSET_SIDE, INSET_SIDE))
            buffer = io.BytesIO()
            image.convert("RGBA").save(buffer, "PNG", compress_level=1)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("these bytes are not a picture") from error
    return buffer.getvalue()


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height of a picture file. Raises ValueError for what is not one."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError("these bytes are not a picture") from error


def _colour(hue: float, saturation: int, lightness: int, alpha: int = 255) -> tuple[int, int, int, int]:
    from PIL import ImageColor

    red, green, blue = ImageColor.getrgb(f"hsl({hue % 360:.0f},{saturation}%,{lightness}%)")[:3]
    return red, green, blue, alpha


def _ground(size: tuple[int, int], hue: int, angle: float) -> Image.Image:
    """A two-colour gradient in a direction."""
    from PIL import Image

    side = 256
    slope = Image.linear_gradient("L").rotate(angle, Image.Resampling.BILINEAR, expand=False, fillcolor=128)
    margin = side // 6  # the corners that a turn leaves empty
    slope = slope.crop((margin, margin, side - margin, side - margin)).resize(size, Image.Resampling.BICUBIC)
    far = Image.new("RGB", size, _colour(hue, 55, 22)[:3])
    near = Image.new("RGB", size, _colour(hue + 50, 65, 62)[:3])
    return Image.composite(near, far, slope)


def _shape(pen: object, rng: random.Random, size: tuple[int, int], hue: int, phase: float) -> None:
    from PIL import ImageDraw

    assert isinstance(pen, ImageDraw.ImageDraw)
    width, height = size
    turn = 2 * math.pi * (phase + rng.random())
    x = width * (rng.random() + 0.12 * math.cos(turn))
    y = height * (rng.random() + 0.12 * math.sin(turn))
    radius = min(size) * rng.uniform(0.06, 0.28)
    fill = _colour(hue + rng.choice((0, 30, 150, 180, 210)), 70, rng.randrange(35, 80), rng.randrange(60, 150))
    match rng.randrange(3):
        case 0:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        case 1:
            pen.regular_polygon((x, y, radius), rng.randrange(3, 7), rotation=round(math.degrees(turn)), fill=fill)
        case _:
            end = (x + 3 * radius * math.cos(turn), y + 3 * radius * math.sin(turn))
            pen.line(((x, y), end), fill=fill, width=max(1, round(radius / 5)))


def _paste_inset(image: Image.Image, source: bytes) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(source)) as file:
        inset = file.convert("RGBA")
        inset.thumbnail((max(1, image.width // 2), max(1, image.height // 2)))
        place = ((image.width - inset.width) // 2, (image.height - inset.height) // 2)
        image.paste(inset, place, inset)


def _write(image: Image.Image, recipe: Picture) -> None:
    """The mark across the middle, the prompt above, the note at the foot."""
    from PIL import Image, ImageDraw, ImageFont

    width, height = image.size
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    mark = ImageFont.load_default(max(8, min(width // 5, height // 2)))
    pen.text((width / 2, height / 2), MARK, font=mark, anchor="mm", fill=(255, 255, 255, 70))
    size = max(8, min(width, height) // 22)
    font = ImageFont.load_default(size)
    caption = _wrapped(recipe.prompt, font, width - 2 * size)
    if caption:
        box = pen.multiline_textbbox((size, size), caption, font=font, spacing=size // 4)
        pad = size // 2
        pen.rounded_rectangle((box[0] - pad, box[1] - pad, box[2] + pad, box[3] + pad), pad, fill=(0, 0, 0, 130))
        pen.multiline_text((size, size), caption, font=font, spacing=size // 4, fill=(255, 255, 255, 255))
    foot = f"sandbox · {recipe.note}" if recipe.note else "sandbox"
    small = ImageFont.load_default(max(7, size * 2 // 3))
    pen.text((width - size // 2, height - size // 2), foot, font=small, anchor="rs", fill=(255, 255, 255, 220))
    image.paste(layer, (0, 0), layer)


def _wrapped(text: str, font: FreeTypeFont | ImageFont, room: float) -> str:
    text = " ".join(text.split())[:MAX_CAPTION_CHARACTERS]
    letters = max(4, int(room / max(1.0, font.getlength("abcdefghijklmnopqrstuvwxyz ") / 27)))
    return "\n".join(textwrap.wrap(text, letters, max_lines=6, placeholder=" …"))


def _vignette(size: tuple[int, int]) -> Image.Image:
    """Opaque in the middle, clear at the corners."""
    from PIL import Image, ImageOps

    return ImageOps.invert(Image.radial_gradient("L")).resize(size, Image.Resampling.BICUBIC)
