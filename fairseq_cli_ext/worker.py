"""Imported once by the process that kosmos-prepare's workers are forked from, so that no stage waits for imports."""

import logging

from fairseq_cli_ext import import_quietly

import_quietly()

import torch  # noqa: E402 - its messages are silenced too

torch.set_num_threads(1)  # there is one process for each core
logging.getLogger().setLevel(logging.WARNING)  # importing fairseq lowers it
