"""Documents → shards, indexes and binarized text."""
