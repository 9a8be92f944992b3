"""Options of kosmos-inspect --plan."""

from dataclasses import dataclass

from kosmos_plugin.errors import UserError
from kosmos_plugin.gpus import gpu_named
from kosmos_plugin.options import option


@dataclass(frozen=True)
class Assumptions:
    """Assumed properties of the data, the vocabulary and the GPUs. Lengths in tokens include the image slots."""

    caption_tokens: int = option(85, "average tokens of a caption with its image", metavar="N", minimum=1)
    page_tokens: int = option(1250, "average tokens of an interleaved document", metavar="N", minimum=1)
    page_images: int = option(2, "images in an interleaved document (the paper: 1 to 5)", metavar="N", minimum=0)
    instruction_tokens: int = option(200, "average tokens of an instruction with its answer", metavar="N", minimum=1)
    vocabulary_size: int = option(64_007, "vocabulary size to assume if its files are missing", metavar="N", minimum=1)
    utilization: float = option(0.4, "fraction of the GPUs' peak FLOP/s that the training reaches", metavar="SHARE")
    gpu: str = option("A100", "kind of GPU: its memory, and its peak in bf16", metavar="NAME")
    gpu_tflops: float | None = option(
        None, "peak of one GPU in the training's precision, in TFLOP/s (default: --gpu's in bf16)", metavar="TFLOPS"
    )

    def check(self) -> None:
        """Raise UserError for a rate that is out of its range."""
        if not 0 < self.utilization <= 1:
            raise UserError(f"--utilization must be above 0 and at most 1, not {self.utilization}.")
        if self.gpu_tflops is not None and not 0 < self.gpu_tflops < float("inf"):
            raise UserError(f"--gpu-tflops must be above 0, not {self.gpu_tflops}.")
        gpu_named(self.gpu, "--gpu")

    @property
    def tflops(self) -> float:
        """The peak of one GPU."""
        return self.gpu_tflops if self.gpu_tflops is not None else gpu_named(self.gpu, "--gpu").tflops
