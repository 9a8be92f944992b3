import pytest

from kosmos_plugin.generation.generator import Generator
from tests import tiny


@pytest.fixture(scope="module")
def kosmos(data) -> Generator:
    """A model whose next tokens differ in likelihood enough to tell choices apart."""
    task = tiny.task(data)
    model = tiny.model(task, seed=3)
    model.decoder.embed_tokens.weight.data *= 3
    return Generator(model, task.vocabulary, task.sample_builder)
