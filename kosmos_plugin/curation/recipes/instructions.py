"""kosmos-prepare instructions: instructions, inputs and outputs → shards of documents whose loss counts the outputs.

Read are JSON lines and Parquet, of which each record may have another of these forms:

    {"instruction": …, "instances": [{"input": …, "constraints": …, "output": …}]}   Unnatural Instructions
    {"inputs": …, "targets": …}                                                       FLAN v2
    {"instruction": …, "input": …, "output": …}                                       input may be missing

A document has two segments: instruction and input, each with a line feed after it, which are no targets (§3.3:
"instructions and inputs are not accounted for in the loss"), and the output. The paper does not say what stands between
them. SentencePiece makes spaces of the line feeds, and begins the output with one, so its tokens are those of an answer
to a prompt that ends where the input does.

read instructions ─→ shards, or with --sample: read instructions ─→ choose sample ─→ shards
"""

from collections.abc import Iterator
from dataclasses import dataclass

from datatrove.data import Document

from kosmos_plugin.curation.pipeline.checks import require, require_valid_share
from kosmos_plugin.curation.pipeline.inputs import check_formats
from kosmos_plugin.curation.pipeline.runner import Run, Stage
from kosmos_plugin.curation.pipeline.steps import Rules
from kosmos_plugin.curation.readers.texts import ReadTexts
from kosmos_plugin.curation.sampling.sample import ReadSample, sample_stages
from kosmos_plugin.curation.writers.shards import WriteShards, interleaved_record
from kosmos_plugin.options import option

FORMATS = ("jsonl", "json", "ndjson", "parquet", "zip")


@dataclass(frozen=True)
class InstructionOptions:
    sample: int | None = option(None, "keep so many of all examples, chosen by a hash; of FLAN v2 the paper has 54000")
    valid_share: float = option(0.001, "share of the examples that is held out for validation")


def instruction_stages(run: Run) -> list[Stage]:
    """The stages of a run; what is wrong with its options or inputs is a UserError."""
    options: InstructionOptions = run.options
    require_valid_share(options.valid_share)
    require(options.sample is None or options.sample > 0, f"--sample must be at least 1, not {options.sample}.")
    check_formats(run.inputs, FORMATS, "Instructions are")
    tasks, sample = len(run.inputs), run.parts / "sample"
    read = [ReadInstructions(run.inputs), Rules([without_output])]
    write = WriteShards(run.out, interleaved_record, options.valid_share)
    if options.sample is None:
        return [Stage("write instructions", [*read, write], tasks)]
    return [
        *sample_stages("read instructions", read, tasks, sample, options.sample, "documents"),
        Stage("write instructions", [ReadSample(sample, tasks), write], tasks),
    ]


class ReadInstructions(ReadTexts):
    """The examples of files, in their order: documents whose metadata are their segments (`shard_writer`)."""

    name = "instructions"

    def texts_of(self, record: object) -> Iterator[tuple[object, dict]]:
        for parts in _examples(record):
            if not all(isinstance(part, str) for part in parts):
                yield None, {}
                continue
            *prompt, output = (part.strip() for part in parts)
            prompt = "".join(f"{part}\n" for part in prompt if part)
            yield prompt + output, {"segments": [{"text": prompt, "in_loss": False}, {"text": output}]}


def _examples(record: object) -> Iterator[tuple[object, ...]]:
    """What each example of a record is asked with, in order, and last its output; (None,) for what is no example."""
    if not isinstance(record, dict):
        yield (None,)
    elif isinstance(record.get("instances"), list):
        for instance in record["instances"]:
            if isinstance(instance, dict):
                constraints = instance.get("constraints") or ""
                if isinstance(constraints, str) and constraints.strip().lower() in ("none", "none."):
                    constraints = ""  # as the release spells it
                yield record.get("instruction"), constraints, instance.get("input") or "", instance.get("output")
            else:
                yield (None,)
    elif "targets" in record:
        yield record.get("inputs"), record["targets"]
    else:
        yield record.get("instruction"), record.get("input") or "", record.get("output")


def without_output(document: Document) -> str | None:
    """Against examples with nothing to learn, or nothing to learn it from."""
    prompt, output = (segment["text"] for segment in document.metadata["segments"])
    if not output:
        return "empty output"
    return None if prompt else "empty instruction"
