"""Imported once by the process that kosmos-prepare's workers are forked from, so that no stage waits for imports."""

import logging

from fairseq_cli_ext import import_quietly

import_quietly()

import torch  # noqa: E402 - what importing it says is not to be heard either

torch.set_num_threads(1)  # there is a process for each core; more threads would wait for each other
logging.getLogger().setLevel(logging.WARNING)  # fairseq lowers it
