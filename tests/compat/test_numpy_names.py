"""Functions of fairseq that use names that NumPy has removed."""

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary, LanguagePairDataset, ListDataset, TokenBlockDataset, data_utils

import kosmos_plugin  # noqa: F401

SENTENCES = [torch.arange(5, 5 + n) for n in (3, 1, 4)]
LENGTHS = [len(sentence) for sentence in SENTENCES]


def test_blocks_of_one_sentence():
    blocks = TokenBlockDataset(ListDataset(SENTENCES), LENGTHS, None, pad=1, eos=2, break_mode="eos")
    assert [block.tolist() for block in blocks] == [sentence.tolist() for sentence in SENTENCES]


def test_blocks_of_whole_sentences():
    blocks = TokenBlockDataset(ListDataset(SENTENCES), LENGTHS, 4, pad=1, eos=2, break_mode="complete")
    assert [block.tolist() for block in blocks] == [[5, 6, 7, 5], [5, 6, 7, 8]]


def test_sentence_pairs_in_buckets():
    letters = Dictionary()
    for letter in "abcdefgh":
        letters.add_symbol(letter)
    sentences = ListDataset(SENTENCES, LENGTHS)
    sizes = np.array(LENGTHS)
    pairs = LanguagePairDataset(sentences, sizes, letters, sentences, sizes, letters, num_buckets=2)
    assert len(pairs.bucketed_num_tokens) == 3
    assert pairs.bucketed_num_tokens.dtype == np.int64
    assert pairs.bucketed_num_tokens.max() >= max(LENGTHS)


@pytest.mark.parametrize("compute", [data_utils.compute_mask_indices, data_utils.compute_mask_indices_v3])
def test_spans_without_overlap_get_past_numpy(compute):
    # The remaining error is fairseq's own, with every NumPy: Generator never had a `randint`.
    with pytest.raises(AttributeError, match="randint"):
        compute((1, 40), None, mask_prob=0.5, mask_length=4, no_overlap=True)


def test_normalizer_of_the_crf():
    from fairseq.modules.dynamic_crf_layer import DynamicCRF

    torch.manual_seed(0)
    crf = DynamicCRF(num_embedding=6, low_rank=2, beam_size=6)
    scores = crf(torch.randn(2, 5, 6), torch.randint(6, (2, 5)), torch.ones(2, 5, dtype=torch.bool))
    assert torch.isfinite(scores).all()
    assert (scores <= 0).all()  # log-probabilities


def test_numpy_itself_is_unchanged():
    assert not hasattr(np, "compat")
    assert "int" not in vars(np)
