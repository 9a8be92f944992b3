"""Imported once by the process that worker processes are forked from, so that no stage waits for imports again."""

from fairseq_cli_ext import import_quietly

import_quietly()
