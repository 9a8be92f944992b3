"""What a user would pick instead, so that both do the same work: same weights, same tokens, same targets."""
