"""The paper's kinds of prompts (Figures 2, 3 and 6, §4.2, §4.4), with pictures drawn here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = 336
_NIGHT, _GRASS, _SUN, _WALL, _ROOF, _INK = "#274060", "#6a994e", "#f2c14e", "#f7ede2", "#bc4749", "#222222"


@dataclass(frozen=True)
class Example:
    """A prompt to begin with.

    Attributes:
        label: The kind of prompt.
        text: Its text.
        images: Its pictures.
        template: The template that fits it.
    """

    label: str
    text: str
    images: tuple[Callable[[], Image.Image], ...]
    template: str

    def save(self, folder: Path) -> list[str]:
        """Write the pictures; return their paths."""
        paths = []
        for number, draw in enumerate(self.images, start=1):
            name = self.label.lower().replace(" ", "-")
            paths.append(str(folder / f"{name}-{number}.png"))
            draw().save(paths[-1])
        return paths


def house() -> Image.Image:
    """A house beside a tree, under the sun."""
    image, draw = _canvas("#a8dadc")
    draw.rectangle((0, 240, SIZE, SIZE), _GRASS)
    draw.ellipse((250, 24, 310, 84), _SUN)
    draw.rectangle((70, 150, 200, 270), _WALL)
    draw.polygon([(55, 150), (135, 85), (215, 150)], _ROOF)
    draw.rectangle((118, 205, 152, 270), "#6b4f3a")
    draw.rectangle((84, 170, 108, 194), "#457b9d")
    draw.rectangle((258, 200, 272, 270), "#6b4f3a")
    draw.ellipse((225, 120, 305, 215), "#386641")
    return image


def circle() -> Image.Image:
    """A blue circle."""
    image, draw = _canvas("#ececec")
    draw.ellipse((90, 100, 230, 240), "#2a52be")
    return image


def sign() -> Image.Image:
    """A sign with two lines of text."""
    image, draw = _canvas("#b7c9d3")
    draw.rectangle((158, 200, 178, SIZE), "#6b4f3a")
    draw.rounded_rectangle((38, 70, 298, 210), 12, "#1d3557", "white", 5)
    _write(draw, (168, 118), "OPEN DAILY", 34, "white")
    _write(draw, (168, 168), "9 am to 5 pm", 30, "white")
    return image


def street() -> Image.Image:
    """Two houses at night."""
    image, draw = _canvas(_NIGHT)
    draw.ellipse((240, 30, 290, 80), _WALL)
    draw.rectangle((0, 270, SIZE, SIZE), "#3d405b")
    for left, top, color in ((40, 140, "#81b29a"), (180, 100, "#e07a5f")):
        draw.rectangle((left, top, left + 110, 270), color)
        for x in (left + 18, left + 66):
            for y in range(top + 20, 235, 55):
                draw.rectangle((x, y, x + 26, y + 32), _SUN)
    return image


def web_page() -> Image.Image:
    """A page of a shop."""
    image, draw = _canvas("white")
    draw.rectangle((0, 0, SIZE, 48), "#1d3557")
    _write(draw, (16, 24), "Garden Books", 24, "white", "lm")
    draw.rectangle((16, 70, 116, 210), _GRASS)
    _write(draw, (66, 140), "ROSES", 22, "white")
    for number, line in enumerate(("All About Roses", "by A. Green", "Price: $12.50", "Pages: 240")):
        _write(draw, (134, 84 + 36 * number), line, 22 if number == 0 else 19, _INK, "lm")
    draw.rounded_rectangle((134, 218, 250, 258), 8, "#e76f51")
    _write(draw, (192, 238), "Buy now", 20, "white")
    return image


def woodpecker() -> Image.Image:
    """A bird with black and white stripes and a yellow crown."""
    image, draw = _canvas("#cfe8cf")
    draw.rectangle((236, 0, 290, SIZE), "#7f5539")
    draw.ellipse((110, 130, 230, 290), _INK)
    for y in range(150, 280, 26):
        draw.line((124, y, 216, y + 6), "white", 8)
    draw.ellipse((130, 70, 220, 155), _INK)
    draw.pieslice((130, 66, 220, 150), 190, 340, _SUN)
    draw.line((140, 122, 206, 128), "white", 7)
    draw.polygon([(214, 102), (246, 112), (214, 122)], "#9a8c98")
    draw.ellipse((188, 96, 202, 110), "white")
    draw.ellipse((192, 100, 199, 107), "black")
    return image


def panel(count: int, shape: str) -> Callable[[], Image.Image]:
    """A cell of a matrix: `count` circles or squares."""

    def draw_panel() -> Image.Image:
        image, draw = _canvas("white")
        draw.rectangle((3, 3, SIZE - 4, SIZE - 4), outline=_INK, width=6)
        for number in range(count):
            left = SIZE // 2 - 40 * count + 80 * number + 10
            draw_shape = draw.ellipse if shape == "circle" else draw.rectangle
            draw_shape((left, 138, left + 60, 198), _INK)
        return image

    return draw_panel


EXAMPLES = (
    Example("Caption", "An image of", (house,), "plain"),
    Example("Question", "what color is the shape?", (circle,), "question-answer"),
    Example("OCR", "what does the sign say?", (sign,), "question-answer"),
    Example("Dialogue", "What time of day is it? How do you know?", (street,), "question-answer"),
    Example(
        "IQ matrix",
        "Here are three images: <image> <image> <image> The following image is: <image> Is it correct?",
        (panel(1, "circle"), panel(2, "circle"), panel(1, "square"), panel(2, "square")),
        "plain",
    ),
    Example(
        "Web page",
        "Given the context below from web page, extract the answer from the given text like this: Qusestion: Who is "
        "the publisher of this book? Answer: Penguin Books Ltd. Context: Garden Books ROSES All About Roses by A. "
        "Green Price: $12.50 Pages: 240 Buy now Q: How much does the book cost? A:",  # the misspelling is the paper's
        (web_page,),
        "plain",
    ),
    Example(
        "Described classes",
        "Description of three toed woodpecker: It has black and white stripes throughout the body and a yellow crown. "
        "Description of downy woodpecker: It has white spots on its black wings and some red on its crown. <image> "
        "Question: what is the name of the woodpecker in the picture? Answer:",
        (woodpecker,),
        "plain",
    ),
)


def _canvas(color: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIZE, SIZE), color)
    return image, ImageDraw.Draw(image)


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, color: str, anchor: str = "mm"
) -> None:
    draw.text(place, text, color, ImageFont.load_default(size), anchor)
