"""Caption metrics against direct calls of pycocoevalcap, and errors about missing tools."""

import os
import random
import shutil
import sys
from pathlib import Path

import pytest

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Item
from kosmos_plugin.evaluation.metrics.captions import PARSER, caption_metrics, check_caption_tools, tokenize
from tests import tiny

pytest.importorskip("pycocoevalcap.cider.cider", reason="needs pycocoevalcap")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="pycocoevalcap's tokenizer needs Java")


def measured(references: list[list[str]], predictions: list[str]):
    items = [Item(str(number), captions) for number, captions in enumerate(references)]
    return caption_metrics(items, [Answer(prediction, ()) for prediction in predictions])


def spice_parser() -> list[Path]:
    from pycocoevalcap.spice import spice

    return [Path(spice.__file__).parent / "lib" / name for name in PARSER]


def directly(references: list[list[str]], predictions: list[str]):
    """CIDEr, CIDEr of each image, BLEU-4 and ROUGE-L, computed by pycocoevalcap's own COCOEvalCap."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    gts = {n: [{"caption": caption} for caption in captions] for n, captions in enumerate(references)}
    res = {n: [{"caption": caption}] for n, caption in enumerate(predictions)}
    gts, res = PTBTokenizer().tokenize(gts), PTBTokenizer().tokenize(res)
    cider, of_images = Cider().compute_score(gts, res)
    return cider, list(of_images), Bleu(4).compute_score(gts, res, verbose=0)[0][3], Rouge().compute_score(gts, res)[0]


@needs_java
def test_equal_to_pycocoevalcap_called_directly():
    rng = random.Random(1)
    references, predictions = [], []
    for _ in range(30):
        captions = [tiny.sentence(rng, (4, 12)) for _ in range(rng.randint(1, 6))]
        references.append([rng.choice((text, f"{text.capitalize()}. ", f"{text},\n{text}!")) for text in captions])
        words = rng.choice(captions).split()
        predictions.append(" ".join(words[rng.randint(0, 2) :]) + rng.choice(("", ".", " and a cat")))
    predictions[3] = ""
    scores = measured(references, predictions)
    cider, of_images, bleu, rouge = directly(references, predictions)
    assert scores.metrics["CIDEr"] == pytest.approx(100 * cider, rel=1e-12)
    assert scores.per_item == pytest.approx(of_images, rel=1e-12) and scores.per_item[3] == 0
    assert scores.metrics["BLEU-4"] == pytest.approx(100 * bleu) and 5 < scores.metrics["BLEU-4"] < 95
    assert scores.metrics["ROUGE-L"] == pytest.approx(100 * rouge)
    assert next(iter(scores.metrics)) == "CIDEr" and min(scores.per_item) < 1 < max(scores.per_item)


@needs_java
def test_cider_by_hand():
    """A caption that equals all references is as similar as can be: 10 for each image, which is 1,000 in percent."""
    references = [["A small dog sleeps here."] * 3, ["Two old cars, near the river", "two old cars near the river"]]
    scores = measured(references, ["a small dog sleeps here", "Two old cars near the river!"])
    assert scores.metrics["CIDEr"] == pytest.approx(1000) and scores.per_item == pytest.approx((10, 10))
    assert scores.metrics["BLEU-4"] == pytest.approx(100) and scores.metrics["ROUGE-L"] == pytest.approx(100)
    # one of two references is equal, the other shares no word: half; words of all other images have equal weights
    references[0] = ["a small dog sleeps here", "nothing in common with it"]
    scores = measured(references, ["a small dog sleeps here", "nowhere a word"])
    assert scores.per_item == pytest.approx((5, 0))


@needs_java
def test_cider_of_one_image_is_0_and_says_so(caplog):
    """Its words have no weight: the logarithm of 1 is 0. pycocoevalcap gives 0 without a word."""
    assert measured([["a small dog sleeps"]], ["a small dog sleeps"]).metrics["CIDEr"] == 0
    assert "all weights are 0, and so is CIDEr" in caplog.text
    caplog.clear()
    assert measured([["a small dog sleeps"], ["an old car"]], ["a small dog sleeps", "an old car"]).metrics["CIDEr"] > 0
    assert "of the 2 measured images: it is not comparable" in caplog.text


@needs_java
def test_whatever_ends_a_line_in_java_is_a_space():
    ends = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"]
    texts = [["", f"A  cat{end}runs.{end}"] for end in ends]
    assert tokenize([*texts, ["the end"], [""]]) == [*([["", "a cat runs"]] * len(ends)), ["the end"], [""]]


def test_a_missing_package_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.tokenizer.ptbtokenizer", None)
    for measure in (check_caption_tools, lambda: measured([["a cat"]], ["a cat"])):
        with pytest.raises(UserError, match=r"needs the package pycocoevalcap.*kosmos-plugin\[evaluation"):
            measure()


def test_missing_java_is_reported(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no `java`: install a Java runtime"):
        check_caption_tools()


def test_a_failing_java_is_reported(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="failed in Java"):
        check_caption_tools()


@needs_java
def test_a_tokenizer_that_cannot_write_is_reported(monkeypatch, tmp_path):
    from pycocoevalcap.tokenizer import ptbtokenizer

    monkeypatch.setattr(ptbtokenizer, "__file__", str(tmp_path / "missing" / "ptbtokenizer.py"))
    with pytest.raises(UserError, match=r"cannot be run: .*missing"):
        check_caption_tools()


@needs_java
def test_without_its_parser_spice_is_left_out(caplog):
    if all(jar.is_file() for jar in spice_parser()):
        pytest.skip("SPICE's parser is there")
    check_caption_tools()
    assert "SPICE will be omitted" in caplog.text and str(spice_parser()[0].parent) in caplog.text
    caplog.clear()
    assert measured([["a cat"], ["a dog"]], ["a cat", "a dog"]).metrics.keys() == {"CIDEr", "BLEU-4", "ROUGE-L"}
    assert "SPICE is omitted: stanford-corenlp-3.6.0.jar and" in caplog.text


@needs_java
def test_a_spice_that_fails_is_left_out(caplog, monkeypatch, tmp_path):
    """SPICE runs in another folder, with an empty file as its parser and without its own jar."""
    from pycocoevalcap.spice import get_stanford_models, spice

    monkeypatch.setattr(spice, "__file__", str(tmp_path / "spice.py"))
    monkeypatch.setattr(get_stanford_models, "SPICEDIR", str(tmp_path))
    monkeypatch.delenv("JDK_JAVA_OPTIONS", raising=False)
    (tmp_path / "lib").mkdir()
    for jar in spice_parser():
        jar.touch()
    assert "SPICE" not in measured([["a cat"], ["a dog"]], ["a cat", "a dog"]).metrics
    assert "SPICE is omitted: it failed" in caplog.text and "JDK_JAVA_OPTIONS" not in os.environ
