"""Imported once by the process that kosmos-prepare's workers are forked from, so that no stage waits for imports."""

import logging

from fairseq_cli_ext import import_quietly

import_quietly()
logging.getLogger().setLevel(logging.WARNING)  # fairseq lowers it
