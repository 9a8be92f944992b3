"""The public KOSMOS-2's geometry, 1,664,485,376 random parameters: logits equal to transformers', after conversion."""

import gc

import pytest
import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration

from kosmos_plugin.checkpoints.convert import convert
from kosmos_plugin.generation.generator import load
from kosmos_plugin.images import normalize
from tests.checkpoints import peer

PIECES = 63_997


@pytest.mark.slow
@torch.no_grad()
def test_full_size_equals_transformers(tmp_path):
    """Needs 15 GB of memory and as much disk."""
    assert peer.write_processor(tmp_path / "theirs", PIECES) == Kosmos2Config().text_config.vocab_size
    torch.manual_seed(0)
    theirs = Kosmos2ForConditionalGeneration(Kosmos2Config()).eval()
    assert sum(parameter.numel() for parameter in theirs.parameters()) == 1_664_485_376
    tokens = torch.randint(4, PIECES, (1, 120))
    slots = torch.zeros_like(tokens, dtype=torch.bool)
    slots[:, 2:66] = True
    images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    mean, std = torch.tensor(OPENAI_DATASET_MEAN), torch.tensor(OPENAI_DATASET_STD)
    pixels = normalize(images, mean, std, torch.float32)
    with_image = theirs(pixel_values=pixels, input_ids=tokens, image_embeds_position_mask=slots).logits
    text_alone = theirs.text_model(input_ids=tokens).logits
    theirs.save_pretrained(str(tmp_path / "theirs"))
    del theirs
    gc.collect()

    convert(tmp_path / "theirs", tmp_path / "ours", "fairseq")
    ours = load(tmp_path / "ours" / "model.pt").model
    document = torch.ones_like(tokens)
    torch.testing.assert_close(ours(tokens, document)[0], text_alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours(tokens, document, slots, images)[0], with_image, atol=1e-4, rtol=0)
