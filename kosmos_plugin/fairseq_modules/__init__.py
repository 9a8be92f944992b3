"""The parts that fairseq calls: task, criterion, architectures, optimizer, and the iterators over batches."""

from kosmos_plugin.compat.quiet_import import import_fairseq

# First: it may import these modules itself, through the module in its tasks/ folder, and must find none half-imported.
import_fairseq()
