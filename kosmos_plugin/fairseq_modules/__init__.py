"""All that fairseq calls: task, criterion, architectures, optimizer, and the batches it iterates over."""
