"""Pictures as PNG files: OpenMoji's things, shapes, rendered words, lists, and the panels of matrices.

Each function draws the same picture for the same arguments; `pose` chooses among the pictures of the same content.
"""

import functools
import io
import random
from pathlib import Path

import matplotlib
import things
from PIL import Image, ImageDraw, ImageFont
from things_and_words import CHARACTERS, IS_LARGE

SIZE = 128  # pixels
SCALE = 2  # shapes and words are drawn larger, then reduced
PALETTE = 48  # colors of a picture: the files are a third as large
LARGE, SMALL = (0.95, 1.2), (0.4, 0.55)  # scale of things that are always large or small

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
TRAINING_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSerif-Bold",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
)  # fmt: skip
NEW_FONTS = ("cmr10", "cmss10", "cmtt10", "cmb10")  # Computer Modern: no training picture has a font of this family


@functools.cache
def thing(name: str, color: str | None, pose: int) -> bytes:
    """An OpenMoji drawing in shades of a color, turned by up to 25 degrees."""
    rng = random.Random(f"{name} {color} {pose}")
    svg = things.openmoji(CHARACTERS[name])
    svg = things.tinted(svg, color) if color else svg
    size = (LARGE if IS_LARGE[name] else SMALL) if name in IS_LARGE else (0.6, 1.1)
    return _reduced(Image.open(io.BytesIO(things.render(things.posed(svg, rng, size), SIZE))))  # noqa: TID251


@functools.cache
def shape(name: str, pose: int) -> bytes:
    """A `red circle` of any size, anywhere."""
    rng = random.Random(f"{name} {pose}")
    color, form = name.split()
    side = SIZE * SCALE
    image = Image.new("RGB", (side, side), "white")
    radius = rng.uniform(0.2, 0.35) * side
    x, y = (rng.uniform(radius, side - radius) for _ in range(2))
    draw_form(ImageDraw.Draw(image), form, x, y, radius, things.COLORS[color])
    return _reduced(image)


@functools.cache
def words(text: str, font: str, pose: int) -> bytes:
    """Words in one line, in a font of matplotlib's."""
    rng = random.Random(f"{text} {font} {pose}")
    side = SIZE * SCALE
    image = Image.new("RGB", (side, side), "white")
    drawing = ImageDraw.Draw(image)
    size = 10
    while drawing.textlength(text, _font(font, size + 1)) < side * 0.92 and size < 72:
        size += 1
    size = round(size * rng.uniform(0.85, 1))
    left, top, right, bottom = drawing.textbbox((0, 0), text, _font(font, size))
    x, y = rng.uniform(0, side - (right - left)), rng.uniform(0.25 * side, 0.75 * side - (bottom - top))
    drawing.text((x - left, y - top), text, "black", _font(font, size))
    return _reduced(image)


@functools.cache
def listing(rows: tuple[tuple[str, str], ...], font: str) -> bytes:
    """A web page's list of names, each with its value below."""
    side = SIZE * SCALE
    image = Image.new("RGB", (side, side), "white")
    drawing = ImageDraw.Draw(image)
    line = side / len(rows) / 2
    for number, row in enumerate(rows):
        top = 2 * line * number
        drawing.rectangle((0, top, side - 1, top + line), (225, 232, 250))
        for text, y in zip(row, (top, top + line), strict=True):
            sizes = range(round(0.8 * line), 0, -1)
            size = next(size for size in sizes if _font(font, size).getlength(text) < side - 20)
            drawing.text((10, y + line / 2), text, "black", _font(font, size), anchor="lm")
    return _reduced(image)


@functools.cache
def panel(form: str, color: str, number: int) -> bytes:
    """One, two or three equal forms side by side: a panel of a matrix."""
    side = SIZE * SCALE
    image = Image.new("RGB", (side, side), "white")
    drawing = ImageDraw.Draw(image)
    for place in range(number):
        draw_form(drawing, form, side * (place + 0.5) / number, side / 2, side * 0.15, things.COLORS[color])
    return _reduced(image)


def draw_form(drawing: ImageDraw.ImageDraw, form: str, x: float, y: float, radius: float, color: tuple) -> None:
    """Draw one of FORMS around a point."""
    left, top, right, bottom = x - radius, y - radius, x + radius, y + radius
    third = radius / 3
    if form == "circle":
        drawing.ellipse((left, top, right, bottom), color)
    elif form == "square":
        drawing.rectangle((left, top, right, bottom), color)
    elif form == "triangle":
        drawing.polygon([(x, top), (right, bottom), (left, bottom)], color)
    elif form == "cross":
        drawing.rectangle((x - third, top, x + third, bottom), color)
        drawing.rectangle((left, y - third, right, y + third), color)
    elif form == "star":
        drawing.regular_polygon((x, y, radius), 3, 0, color)
        drawing.regular_polygon((x, y, radius), 3, 180, color)
    else:  # a heart
        drawing.ellipse((left, top, x + third / 2, y + third), color)
        drawing.ellipse((x - third / 2, top, right, y + third), color)
        drawing.polygon([(left + third / 3, y), (right - third / 3, y), (x, bottom)], color)


@functools.cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONTS / f"{name}.ttf", size)


def _reduced(image: Image.Image) -> bytes:
    small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.quantize(PALETTE, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()
