"""One file for each `kosmos-prepare` command: its stages."""
