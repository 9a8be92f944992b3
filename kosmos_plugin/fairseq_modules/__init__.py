"""The parts that fairseq calls: task, criterion, architectures, optimizer, and the iterators over batches."""

# First: it may import these modules itself, through the module in its tasks/ folder, and must find none half-imported.
import fairseq  # noqa: F401
