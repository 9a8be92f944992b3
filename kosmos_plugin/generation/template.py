"""Templates: how what a user says becomes a prompt of the kind that a model was trained on."""

from dataclasses import dataclass
from pathlib import Path

from kosmos_plugin.errors import UserError, did_you_mean, require_file
from kosmos_plugin.generation.prompt import IMAGE_MARK

PLACE = "{text}"


@dataclass(frozen=True)
class Template:
    """How a turn is asked.

    Attributes:
        form: The text of a turn, with `{text}` in place of what the user says.
        stop: Texts that end an answer, unless others are asked for.
    """

    form: str
    stop: tuple[str, ...] = ()

    def turn(self, text: str, images: int) -> str:
        """The prompt of a turn. Its images come first, unless the text says where they are."""
        images -= text.count(IMAGE_MARK)
        said = text.strip()
        return " ".join([IMAGE_MARK] * images + [self.form.replace(PLACE, said) if said else ""]).strip()


TEMPLATES = {
    "plain": Template(PLACE),
    "question-answer": Template(f"Question: {PLACE} Answer:", ("Question:",)),
}


def template_of(name: str | Path) -> Template:
    """A template by its name, or from a file: its text, with `{text}` in place of what the user says.

    Raises:
        UserError: There is no such template or file, or `{text}` is not in it once.
    """
    if name in TEMPLATES:
        return TEMPLATES[str(name)]
    path = Path(name)
    if not path.exists() and not path.suffix:
        known = ", ".join(TEMPLATES)
        raise UserError(f"The template {str(name)!r} is neither {known} nor a file.{did_you_mean(name, TEMPLATES)}")
    require_file(path, "The template")
    try:
        form = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise UserError(f"The template {path} is not UTF-8.") from None
    if form.count(PLACE) != 1:
        raise UserError(f"The template {path} must have {PLACE} once, where what the user says belongs.")
    return Template(form)
