"""The baselines: what one would use instead, set up for the same work with the same weights, tokens and targets."""
