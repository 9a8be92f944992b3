"""Where the model looked for the tokens of an answer, as pictures."""

import asyncio
from dataclasses import dataclass
from typing import Any

from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.serving.page.dialogue import Dialogue

SIDE = 448  # pixels of a picture's longer side


@dataclass
class Looked:
    """The maps of an answer."""

    maps: Any  # as Generator.attention_map gives them

    def tokens(self) -> list[str]:
        """How the answer's tokens are written, so that each is seen."""
        return [token.strip() or repr(token)[1:-1] for token in self.maps.tokens]

    def pictures(self, token: int) -> list[Any]:
        """For one token, each image with its map over it, and what share of the attention is on it."""
        shares = [float(each[token].sum()) for each in self.maps.maps]
        return [
            (self.maps.overlay(token, image, SIDE), f"{share:.1%} of the attention")
            for image, share in enumerate(shares)
        ]


class Looking:
    """Makes maps, one at a time: each is a run of the model beside those of the engine.

    Args:
        kosmos: The model.
    """

    def __init__(self, kosmos: Generator):
        self.kosmos = kosmos
        self._one = asyncio.Lock()

    async def look(self, dialogue: Dialogue) -> Looked:
        """The maps of the last answer.

        Raises:
            UserError: There is no answer yet, or no image.
        """
        if not dialogue.turns or not dialogue.turns[-1].answer:
            raise UserError("There is no answer yet.")
        prompt, images = dialogue.prompt()
        if not images:
            raise UserError("There is no image in this dialogue.")
        async with self._one:
            maps = await asyncio.to_thread(self.kosmos.attention_map, prompt, images, dialogue.turns[-1].answer)
        return Looked(maps)
