"""What a training mixture holds: a micro-batch, single documents, and statistics of its corpora."""
