"""Documents → shards and binarized text."""
