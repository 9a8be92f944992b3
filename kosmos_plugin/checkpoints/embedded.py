"""What a checkpoint carries so that it loads anywhere: its vocabulary, and the JSON file of its vision encoder if any.

It is in `task_state`, as text, so that .pt and .safetensors hold the same.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import Vocabulary

FILES = "vocabulary_files"  # name → content in base64
VISION_MODEL = "vision_model"  # the content of the JSON file that the option of this name is the path of


def embedded_state(vocabulary: Vocabulary, vision_model: str) -> dict[str, Any]:
    """The part of `task_state` that makes a checkpoint stand alone.

    Args:
        vocabulary: The vocabulary.
        vision_model: The option of this name: a name, the path of a JSON file, or its content.
    """
    state: dict[str, Any] = {
        "vocabulary": vocabulary.fingerprint,
        "newlines": vocabulary.newlines,
        FILES: {name: base64.b64encode(data).decode() for name, data in sorted(vocabulary.files.items())},
    }
    content = vision_model_content(vision_model)
    return state if content is None else {**state, VISION_MODEL: content}


def embedded_vocabulary(state: dict[str, Any], path: Path) -> Vocabulary | None:
    """The vocabulary that a checkpoint carries; None if it carries none.

    Raises:
        UserError: It is damaged.
    """
    files = (state.get("task_state") or {}).get(FILES)
    if files is None:
        return None
    try:
        decoded = {str(name): base64.b64decode(text, validate=True) for name, text in files.items()}
    except (AttributeError, TypeError, ValueError, binascii.Error):
        raise UserError(f"{path} carries a damaged vocabulary: give another (--vocabulary or --data).") from None
    return Vocabulary.from_files(decoded, f"the vocabulary in {path}")


def embedded_vision_model(state: dict[str, Any]) -> str | None:
    """The content of the JSON file of the vision encoder; None if the checkpoint carries none."""
    content = (state.get("task_state") or {}).get(VISION_MODEL)
    return content if isinstance(content, str) else None


def vision_model_content(vision_model: str) -> str | None:
    """The content of the JSON file that `--vision-model` names; None for a name, or a file that is gone."""
    if vision_model.lstrip().startswith("{"):
        return vision_model
    path = Path(vision_model)
    return path.read_text(encoding="utf-8") if path.suffix == ".json" and path.is_file() else None
