"""One file for each `kosmos-prepare` command: `stages(run)` checks the options and makes its stages."""
