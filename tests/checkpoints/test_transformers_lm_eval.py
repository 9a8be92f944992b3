"""lm_eval's own model `hf` on an exported folder gives what our adapter gives on the checkpoint."""

import random
from pathlib import Path

import pytest

from tests import tiny
from tests.checkpoints import exported

pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from kosmos_plugin.evaluation.harnesses.lm_eval_model import KosmosLM


def requests(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, args, number) for number, args in enumerate(arguments)]


@pytest.mark.parametrize("variant", ["clip", "text"])
def test_likelihoods_and_answers_are_the_adapters(tmp_path: Path, variant: str):
    checkpoint, folder = exported.write_folder(tmp_path, variant)
    ours = KosmosLM(str(checkpoint), device="cpu", batch_size=4)
    theirs = HFLM(str(folder), trust_remote_code=True, device="cpu", dtype="float32", batch_size=4)
    rng = random.Random(0)
    pairs = [(tiny.sentence(rng), f" {tiny.sentence(rng, (1, 4))}") for _ in range(12)]
    expected = ours.loglikelihood(requests("loglikelihood", pairs))
    found = theirs.loglikelihood(requests("loglikelihood", pairs))
    for (their_sum, their_greedy), (our_sum, our_greedy) in zip(found, expected, strict=True):
        assert their_sum == pytest.approx(our_sum, abs=1e-3)
        assert their_greedy == our_greedy
    asked = [(context, {"until": ["cat"], "max_gen_toks": 12}) for context, _ in pairs[:4]]
    answers = [text.strip() for text in theirs.generate_until(requests("generate_until", asked))]
    assert answers == [text.strip() for text in ours.generate_until(requests("generate_until", asked))]
    texts = requests("loglikelihood_rolling", [(tiny.sentence(rng),) for _ in range(4)])
    # lm_eval puts `<s>` before a text itself; with the tokenizer's it would score one.
    theirs.add_bos_token = False
    assert theirs.loglikelihood_rolling(texts) == pytest.approx(ours.loglikelihood_rolling(texts), abs=1e-3)
