"""Checkpoints in and out: fairseq's .pt, safetensors, Hugging Face's KOSMOS-2, and weights to start a decoder from.

files.py                 reading files of weights, and writing files and folders atomically
state_dict.py            whether weights match a configuration
safetensors_file.py      any fairseq checkpoint ⇄ one .safetensors file
fairseq_checkpoint.py    reading a KOSMOS model's checkpoint, writing new ones
decoder_weights.py       --decoder-weights: a decoder that starts from a text-only model
huggingface*.py          the architecture kosmos_2 ⇄ transformers' Kosmos2ForConditionalGeneration
convert.py               kosmos-convert: picks the reader and the writer
"""

from kosmos_plugin.compat.quiet_import import import_fairseq

import_fairseq()  # before a module here does, with fairseq's own messages
