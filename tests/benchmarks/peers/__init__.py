"""The baselines: common alternatives, set up for the same work with the same weights, tokens and targets."""
