"""The parts that fairseq calls: task, criterion, architectures, optimizer, and the iterators over batches."""

# First: importing fairseq may itself import these modules (fairseq_hook), and must not find one half-imported.
import fairseq  # noqa: F401
