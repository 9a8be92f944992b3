"""Where the model looked for the tokens of an answer."""

import asyncio
import base64
import io
import itertools
from collections import OrderedDict

from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.attention_map import AttentionMap
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.serving.page.dialogue import Dialogue

SIDE = 448  # pixels of a picture's longer side
KEPT = 16  # maps of all users; each has its pictures with it


class Looking:
    """Makes maps, one at a time: each is a run of the model beside those of the engine.

    Args:
        kosmos: The model.
    """

    def __init__(self, kosmos: Generator):
        self.kosmos = kosmos
        self._one = asyncio.Lock()
        self._maps: OrderedDict[int, AttentionMap] = OrderedDict()
        self._numbers = itertools.count()

    async def look(self, dialogue: Dialogue) -> tuple[int, list[str]]:
        """Make the maps of the last answer.

        Returns:
            A number for `html`, and the answer's tokens.

        Raises:
            UserError: There is no answer, or no image.
        """
        if not dialogue.turns or not dialogue.turns[-1].answer:
            raise UserError("There is no answer yet.")
        prompt, images = dialogue.prompt()
        if not images:
            raise UserError("There is no image in this dialogue.")
        async with self._one:
            maps = await asyncio.to_thread(self.kosmos.attention_map, prompt, images, dialogue.turns[-1].answer)
        number = next(self._numbers)
        self._maps[number] = maps
        while len(self._maps) > KEPT:
            self._maps.popitem(last=False)
        return number, maps.tokens

    def html(self, number: int, token: int) -> str:
        """Each image with the map of one token over it, and what share of the token's attention is on it.

        Raises:
            UserError: The maps are not kept any longer.
        """
        maps = self._maps.get(number)
        if maps is None:
            raise UserError("These maps are not kept any longer: show them again.")
        figures = []
        for image, values in enumerate(maps.maps):
            buffer = io.BytesIO()
            maps.overlay(token, image, SIDE).save(buffer, "WEBP", quality=85)
            source = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
            share = f"{values[token].sum():.1%} of the attention"
            figures.append(f'<figure><img src="{source}" alt="{share}"><figcaption>{share}</figcaption></figure>')
        return "".join(figures)
