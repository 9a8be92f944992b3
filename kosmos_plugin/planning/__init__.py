"""What a training would take, from its command alone, and whether it is the paper's (`kosmos-inspect --plan`)."""
