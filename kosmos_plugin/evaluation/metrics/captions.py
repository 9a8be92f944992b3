"""CIDEr, SPICE, BLEU-4 and ROUGE-L of captions, computed by pycocoevalcap, as in the paper (§4.1.1).

captions → PTBTokenizer (in Java: words in lower case, without punctuation) → each metric, over all images

CIDEr weighs words by how many of the measured images they are said of: that of a part of a test set is another measure.
SPICE needs a parser that pycocoevalcap downloads. Without it, and where it fails, SPICE is left out with a warning.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Answer, Item, Scores
from kosmos_plugin.evaluation.metrics.accuracy import percent

logger = logging.getLogger(__name__)

PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
# SPICE was made for Java 8. From Java 16 on, what it saves parses with may not look into these packages by itself.
PACKAGES_OF_JAVA = ("java.lang", "java.math", "java.net", "java.text", "java.util", "java.util.concurrent")
LAST_LINE = "the end"
JAVA_OPTIONS = "JDK_JAVA_OPTIONS"  # the variable is unknown to Java 8, which needs none

Captions = dict[int, list[str]]  # number of an image → its captions, tokenized


def caption_metrics(items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
    """The metrics in percent, CIDEr first; a reference is the list of an image's captions."""
    tokenized = tokenize([*(item.reference for item in items), *([answer.prediction] for answer in answers)])
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    references = dict(enumerate(tokenized[: len(items)]))
    predictions = dict(enumerate(tokenized[len(items) :]))
    _, of_images = Cider().compute_score(references, predictions)
    metrics = {"CIDEr": percent(of_images)}
    spice = _spice(references, predictions)
    if spice is not None:
        metrics["SPICE"] = 100 * spice
    bleu, _ = Bleu(4).compute_score(references, predictions, verbose=0)
    rouge, _ = Rouge().compute_score(references, predictions)
    metrics |= {"BLEU-4": 100 * float(bleu[3]), "ROUGE-L": 100 * float(rouge)}
    return Scores(metrics, tuple(map(float, of_images)), are_grades=False)


def check_caption_tools() -> None:
    """UserError if captions cannot be measured here; a warning if they can, but without SPICE."""
    tokenize([])
    lacking = _spice_lacks()
    if lacking:
        logger.warning("SPICE will be left out: %s", lacking)


def tokenize(captions: Sequence[Sequence[str]]) -> list[list[str]]:
    """The captions of images in words with spaces between them. UserError if that cannot be done here."""
    try:
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ModuleNotFoundError as error:
        raise UserError(f'Captions are measured with {error.name}: pip install "kosmos-plugin[evaluation]"') from None
    if shutil.which("java") is None:
        raise UserError(
            "Captions are measured with Java, and there is no `java`: install a Java runtime, such as the package "
            "default-jre-headless of Debian and Ubuntu or openjdk of conda-forge."
        )
    # A line for each: Java ends one at more characters than pycocoevalcap takes away. The last line must come back.
    lines = [[" ".join(caption.split()) for caption in of_image] for of_image in (*captions, [LAST_LINE])]
    try:
        found = PTBTokenizer().tokenize(
            {image: [{"caption": line} for line in of_image] for image, of_image in enumerate(lines)}
        )
    except OSError as error:  # it writes into its own folder
        raise UserError(f"pycocoevalcap's tokenizer cannot be run: {error}.") from None
    if found.pop(len(captions), None) != [LAST_LINE]:
        raise UserError("pycocoevalcap's tokenizer failed in Java; what it said stands above.")
    return list(found.values())


def _spice(references: Captions, predictions: Captions) -> float | None:
    """None, with a warning, if it cannot be computed here."""
    from pycocoevalcap.spice.spice import Spice

    lacking = _spice_lacks()
    if not lacking:
        before = os.environ.get(JAVA_OPTIONS)
        opened = (f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in PACKAGES_OF_JAVA)
        os.environ[JAVA_OPTIONS] = " ".join((*opened, before or ""))
        try:
            return float(Spice().compute_score(references, predictions)[0])
        except Exception as error:  # whatever it was: the model's answers are worth more than this metric
            lacking = f"it failed ({error}); what Java said stands above."
        finally:
            if before is None:
                del os.environ[JAVA_OPTIONS]
            else:
                os.environ[JAVA_OPTIONS] = before
    logger.warning("SPICE is left out: %s", lacking)
    return None


def _spice_lacks() -> str:
    """What is to be done before SPICE can be computed, or nothing."""
    from pycocoevalcap.spice import spice

    folder = Path(spice.__file__).parent / "lib"
    missing = [name for name in PARSER if not (folder / name).is_file()]
    if not missing:
        return ""
    return (
        f"{' and '.join(missing)} must be in {folder}. They are in stanford-corenlp-full-2015-12-09.zip of "
        "nlp.stanford.edu/software; where there is a network, python -m pycocoevalcap.spice.get_stanford_models "
        "puts them there."
    )
