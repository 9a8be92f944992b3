"""Text streams for fairseq's scorer: each document by itself, every target once."""

from collections import Counter

import numpy as np
import pytest
import yaml
from fairseq.data.indexed_dataset import MMapIndexedDataset

from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.eval_lm import ScoringBatches
from tests import tiny


def scored(path, ranks=1, rank=0, split="valid", **options):
    task = tiny.task(path, **options)
    task.load_dataset(split)
    return task.vocabulary, ScoringBatches(task.dataset(split), task.vocabulary, ranks, rank)


def text_only(data, tmp_path, texts, eos=2):
    for number, documents in enumerate(texts):
        tiny.write_text(tmp_path / f"text{number}", documents, eos)
    corpora = [{"name": "w", "train": [], "valid": [str(tmp_path / f"text{n}") for n in range(len(texts))]}]
    config = {"vocabulary": str(data.parent / "vocabulary")}
    config["streams"] = {"text": {"kind": "text", "sequences_per_update": 1, "corpora": corpora}}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "data.yaml"


def targets(vocabulary, batches):
    return Counter(
        token for batch in batches for token in batch["target"].flatten().tolist() if token != vocabulary.pad
    )


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_token_is_scored_once(data, ranks):
    parts = [scored(data, ranks, rank) for rank in range(ranks)]
    vocabulary = parts[0][0]
    batches = [part[i] for _, part in parts for i in range(len(part))]
    items = MMapIndexedDataset(str(data.parent / "text" / "valid"))
    expected = Counter(token for i in range(len(items)) for token in items[i].tolist())  # </s> of each among them
    assert targets(vocabulary, batches) == expected
    assert sum(batch["ntokens"] for batch in batches) == sum(expected.values())
    for batch in batches:
        tokens, target = batch["net_input"]["tokens"], batch["target"]
        assert batch["nsentences"] == len(batch["id"]) == len(tokens) == len(target)
        assert (batch["net_input"]["document_ids"] == (tokens != vocabulary.pad)).all()
        assert ((tokens != vocabulary.pad) == (target != vocabulary.pad)).all()  # without gaps
        for line, line_target in zip(tokens.tolist(), target.tolist(), strict=True):
            length = sum(token != vocabulary.pad for token in line)
            assert line[1:length] == line_target[: length - 1]  # the next token
            assert vocabulary.bos not in line[1:]


@pytest.mark.parametrize("length", range(5, 12))
def test_texts_of_any_length(data, tmp_path, length):
    """This includes texts that end in a row of only `</s>`, which has nothing to score."""
    texts = [[list(range(5, 5 + length))], [[7, 8, 9]]]
    vocabulary, batches = scored(text_only(data, tmp_path, texts), tokens_per_sample=4)
    found = [batches[i] for i in range(len(batches))]
    expected = Counter([*range(5, 5 + length), 2, 7, 8, 9, 2])
    assert targets(vocabulary, found) == expected
    assert len(np.unique(np.concatenate([batch["id"].numpy() for batch in found]))) == sum(len(b["id"]) for b in found)


def test_documents_of_a_row_are_read_apart(data, tmp_path):
    """A document is read after `<s>` though in the row it follows another's `</s>`, and goes on in the next row."""
    path = text_only(data, tmp_path, [[[5, 6], [7], [8, 9, 10, 11, 12, 13, 14]]])
    vocabulary, batches = scored(path, tokens_per_sample=6)
    bos, eos, pad = vocabulary.bos, vocabulary.eos, vocabulary.pad
    assert [batch["net_input"]["tokens"].tolist() for batch in batches] == [
        [[bos, 5, 6], [bos, 7, pad]],
        [[bos, 8, 9, 10, 11]],
        [[bos, 13, 14]],
    ]
    assert [batch["target"].tolist() for batch in batches] == [
        [[5, 6, eos], [7, eos, pad]],
        [[8, 9, 10, 11, 12]],
        [[13, 14, eos]],
    ]


def test_no_text_stream(data, tmp_path):
    config = yaml.safe_load(text_only(data, tmp_path, [[[5]]]).read_text())
    captions = {"name": "c", "train": [], "valid": str(data.parent / "captions" / "valid-0.tar")}
    config["streams"] = {"c": {"kind": "captions", "sequences_per_update": 1, "corpora": [captions]}}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="fairseq-eval-lm scores text streams, and the data YAML has none"):
        scored(tmp_path / "data.yaml")
