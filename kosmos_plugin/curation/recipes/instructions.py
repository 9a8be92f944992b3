"""kosmos-prepare instructions: instructions, inputs and outputs → shards; only the outputs are in the loss.

A document has segments for the instruction and the input, each with a line feed after it, for their images, and for
the output. Instructions and inputs are not in the loss (§3.3: "instructions and inputs are not accounted for in the
loss"). The paper does not say what separates them. At the end of a text a line feed leaves no token, and SentencePiece
starts the output with a space, so its tokens are those of an answer to a prompt that ends where the input does. Between
instruction and input it is a space or, if the vocabulary encodes newlines, `</line>`.

read instructions ─→ images ─→ shards, or with --sample: read instructions ─→ choose sample ─→ images ─→ shards
"""

import functools

from datatrove.pipeline.base import PipelineStep

from kosmos_plugin.curation.filters.instructions import InstructionFilter
from kosmos_plugin.curation.formatters.read_images import ReadImagesFilter
from kosmos_plugin.curation.options import InstructionOptions
from kosmos_plugin.curation.pipeline.checks import require, require_folder
from kosmos_plugin.curation.pipeline.inputs import check_formats
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.readers.instructions import EXTENSIONS, ReadInstructions
from kosmos_plugin.curation.sampling.hold_out import Held, write_stages
from kosmos_plugin.curation.sampling.sample import ReadSample, sample_stages
from kosmos_plugin.curation.writers.shards import WriteShards, interleaved_record
from kosmos_plugin.image_files import IMAGE_EXTENSIONS


def stages(run: Run[InstructionOptions]) -> list[Stage]:
    """Make the stages of a run. UserError for wrong options or inputs."""
    options = run.options
    if options.images is not None:
        require_folder(options.images, "--images")
    files = [file for file in run.inputs if file.format not in IMAGE_EXTENSIONS]
    require(len(files) > 0, f"{run.inputs[0].path}: the input is only images, without instructions.")
    check_formats(files, EXTENSIONS, "Instructions are")
    reader = ReadInstructions(files, options.images, run.dropped_writer("invalid"))
    read: list[PipelineStep] = [reader, InstructionFilter(run.dropped_writer("empty"))]
    chosen: list[PipelineStep] = read
    stages: list[Stage] = []
    if options.sample is not None:
        sample = run.intermediate / "sample"
        stages = sample_stages("read instructions", read, reader.tasks, sample, options.sample, "documents")
        chosen = [ReadSample(sample, reader.tasks)]
    chosen = [*chosen, ReadImagesFilter(run.dropped_writer("images"))]
    held = Held.of_options(options.valid_share, options.valid_documents, reader.tasks)
    write = functools.partial(WriteShards, run.out, interleaved_record)
    return [
        *stages,
        *write_stages("write instructions", chosen, write, reader.tasks, run.intermediate / "held", held),
    ]
