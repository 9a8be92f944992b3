"""CIDEr, SPICE, BLEU-4 and ROUGE-L of captions, computed by pycocoevalcap, as in the paper (§4.1.1).

captions → PTBTokenizer (in Java: lower-case words without punctuation) → each metric, over all images

CIDEr weighs words by how rare they are in the captions of all measured images: values of a part of a test set are not
comparable with those of the whole, and one image gets 0. SPICE needs a parser that pycocoevalcap downloads. Without it,
and where it fails, SPICE is omitted with a warning.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from kosmos_plugin.errors import UserError, missing_package
from kosmos_plugin.evaluation.benchmark import Answer, Item, Scores
from kosmos_plugin.evaluation.metrics.accuracy import percent

logger = logging.getLogger(__name__)

PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
# SPICE was made for Java 8. Since Java 16, the library that it saves parses with needs access to these packages.
PACKAGES_OF_JAVA = ("java.lang", "java.math", "java.net", "java.text", "java.util", "java.util.concurrent")
LAST_LINE = "the end"
FEW_IMAGES = 1000  # of Flickr30k's test set, the smallest that the paper measures
JAVA_OPTIONS = "JDK_JAVA_OPTIONS"  # Java 8 ignores it, and needs no such access

Captions = dict[int, list[str]]  # index of an image → its tokenized captions


def caption_metrics(items: Sequence[Item], answers: Sequence[Answer]) -> Scores:
    """Compute the metrics, CIDEr first.

    Args:
        items: The images; a reference is the list of an image's captions.
        answers: One caption for each image.

    Raises:
        UserError: pycocoevalcap or Java is missing or fails.
    """
    if len(items) < FEW_IMAGES:
        logger.warning("%s", cider_note(len(items)))
    tokenized = tokenize([*(item.reference for item in items), *([answer.prediction] for answer in answers)])
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    references = dict(enumerate(tokenized[: len(items)]))
    predictions = dict(enumerate(tokenized[len(items) :]))
    _, per_image = Cider().compute_score(references, predictions)
    metrics = {"CIDEr": percent(per_image)}
    spice = _spice(references, predictions)
    if spice is not None:
        metrics["SPICE"] = 100 * spice
    bleu, _ = Bleu(4).compute_score(references, predictions, verbose=0)
    rouge, _ = Rouge().compute_score(references, predictions)
    metrics |= {"BLEU-4": 100 * float(bleu[3]), "ROUGE-L": 100 * float(rouge)}
    return Scores(metrics, tuple(map(float, per_image)), are_grades=False)


def cider_note(images: int) -> str:
    """Say how CIDEr over a part of a test set differs from CIDEr over all of it.

    A word's weight is its inverse document frequency (idf): the logarithm of the number of images divided by the
    number of those whose references have the word.
    """
    note = f"CIDEr weighs words by their rarity in the references of the {images:,} measured images"
    if images == 1:
        return f"{note.replace('1 measured images', 'one measured image')}: all weights are 0, and so is CIDEr."
    return f"{note}: it is not comparable with CIDEr over a whole test set."


def check_caption_tools() -> None:
    """Check that captions can be measured here; warn if only SPICE cannot.

    Raises:
        UserError: pycocoevalcap or Java is missing or fails.
    """
    tokenize([])
    lacking = _spice_lacks()
    if lacking:
        logger.warning("SPICE will be omitted: %s", lacking)


def tokenize(captions: Sequence[Sequence[str]]) -> list[list[str]]:
    """Tokenize the captions of each image: words joined by spaces.

    Raises:
        UserError: pycocoevalcap or Java is missing or fails.
    """
    try:
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ModuleNotFoundError as error:
        raise missing_package("Measuring captions", error, "evaluation") from None
    if shutil.which("java") is None:
        raise UserError(
            "Captions are measured with Java, but there is no `java`: install a Java runtime, such as the package "
            "default-jre-headless of Debian and Ubuntu or openjdk of conda-forge."
        )
    # One line per caption: Java ends lines at more characters than pycocoevalcap removes. A last line, which must come
    # back, shows that Java has read all.
    lines = [[" ".join(caption.split()) for caption in group] for group in (*captions, [LAST_LINE])]
    try:
        found = PTBTokenizer().tokenize(
            {image: [{"caption": line} for line in group] for image, group in enumerate(lines)}
        )
    except OSError as error:  # it writes into its own folder
        raise UserError(f"pycocoevalcap's tokenizer cannot be run: {error}.") from None
    if found.pop(len(captions), None) != [LAST_LINE]:
        raise UserError("pycocoevalcap's tokenizer failed in Java; its output is above.")
    return list(found.values())


def _spice(references: Captions, predictions: Captions) -> float | None:
    """Compute SPICE; None, with a warning, if it cannot be computed here."""
    from pycocoevalcap.spice.spice import Spice

    lacking = _spice_lacks()
    if not lacking:
        before = os.environ.get(JAVA_OPTIONS)
        access = (f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in PACKAGES_OF_JAVA)
        os.environ[JAVA_OPTIONS] = " ".join((*access, before or ""))
        try:
            return float(Spice().compute_score(references, predictions)[0])
        except Exception as error:  # of any kind: it must not cost the other metrics
            lacking = f"it failed ({error}); Java's output is above."
        finally:
            if before is None:
                del os.environ[JAVA_OPTIONS]
            else:
                os.environ[JAVA_OPTIONS] = before
    logger.warning("SPICE is omitted: %s", lacking)
    return None


def _spice_lacks() -> str:
    """Say what SPICE needs; "" if nothing is missing."""
    from pycocoevalcap.spice import spice

    folder = Path(spice.__file__).parent / "lib"
    missing = [name for name in PARSER if not (folder / name).is_file()]
    if not missing:
        return ""
    return (
        f"{' and '.join(missing)} must be in {folder}. They are in stanford-corenlp-full-2015-12-09.zip of "
        "nlp.stanford.edu/software; where there is a network, python -m pycocoevalcap.spice.get_stanford_models "
        "installs them."
    )
