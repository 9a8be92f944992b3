"""Looks into a training mixture: a micro-batch, single documents, and statistics of its corpora."""
