"""Instructions, inputs and outputs → documents of two segments, of which only the output is in the loss.

Each record of JSON lines or Parquet may have one of these forms:

    {"instruction": …, "instances": [{"input": …, "constraints": …, "output": …}]}   Unnatural Instructions
    {"inputs": …, "targets": …}                                                       FLAN v2
    {"instruction": …, "input": …, "output": …}                                       input may be missing
"""

from collections.abc import Iterator
from typing import Any

from kosmos_plugin.curation.readers.text_files import ReadTexts

EXTENSIONS = ("jsonl", "json", "ndjson", "parquet", "zip")


class ReadInstructions(ReadTexts):
    """The examples of files: documents with `metadata["segments"]` (`page_documents`)."""

    name = "instructions"

    def texts_of(self, record: object) -> Iterator[tuple[object, dict[str, Any]]]:
        for parts in _examples(record):
            texts = [part.strip() for part in parts if isinstance(part, str)]
            if len(texts) < len(parts):
                yield None, {}
                continue
            *prompts, output = texts
            prompt = "".join(f"{text}\n" for text in prompts if text)
            yield prompt + output, {"segments": [{"text": prompt, "in_loss": False}, {"text": output}]}


def _examples(record: object) -> Iterator[tuple[object, ...]]:
    """The examples of a record: the parts of the prompt in order, then the output; (None,) for an invalid one."""
    if not isinstance(record, dict):
        yield (None,)
    elif isinstance(record.get("instances"), list):
        for instance in record["instances"]:
            if isinstance(instance, dict):
                constraints = instance.get("constraints") or ""
                if isinstance(constraints, str) and constraints.strip().lower() in ("none", "none."):
                    constraints = ""  # the release's way to say that there are none
                yield record.get("instruction"), constraints, instance.get("input") or "", instance.get("output")
            else:
                yield (None,)
    elif "targets" in record:
        yield record.get("inputs"), record["targets"]
    else:
        yield record.get("instruction"), record.get("input") or "", record.get("output")
