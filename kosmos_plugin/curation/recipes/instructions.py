"""kosmos-prepare instructions: instructions, inputs and outputs → shards; only the outputs are in the loss.

A document has two segments: instruction and input, each with a line feed after it, which are not in the loss (§3.3:
"instructions and inputs are not accounted for in the loss"), and the output. The paper does not say what separates
them. At the end of a text a line feed leaves no token, and SentencePiece starts the output with a space, so its tokens
are those of an answer to a prompt that ends where the input does. Between instruction and input it is a space or, if
the vocabulary encodes newlines, `</line>`.

read instructions ─→ shards, or with --sample: read instructions ─→ choose sample ─→ shards
"""

from kosmos_plugin.curation.filters.instructions import InstructionFilter
from kosmos_plugin.curation.options import InstructionOptions
from kosmos_plugin.curation.pipeline.checks import require_valid_share
from kosmos_plugin.curation.pipeline.inputs import check_formats
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.readers.instructions import EXTENSIONS, ReadInstructions
from kosmos_plugin.curation.sampling.sample import ReadSample, sample_stages
from kosmos_plugin.curation.writers.shards import WriteShards, interleaved_record


def stages(run: Run[InstructionOptions]) -> list[Stage]:
    """Make the stages of a run. UserError for wrong options or inputs."""
    options = run.options
    require_valid_share(options.valid_share)
    check_formats(run.inputs, EXTENSIONS, "Instructions are")
    reader = ReadInstructions(run.inputs, exclusion_writer=run.dropped_writer("invalid"))
    read = [reader, InstructionFilter(run.dropped_writer("empty"))]
    write = WriteShards(run.out, interleaved_record, options.valid_share)
    if options.sample is None:
        return [Stage("write instructions", [*read, write], reader.tasks)]
    sample = run.intermediate / "sample"
    return [
        *sample_stages("read instructions", read, reader.tasks, sample, options.sample, "documents"),
        Stage("write instructions", [ReadSample(sample, reader.tasks), write], reader.tasks),
    ]
