"""Checkpoints in and out: fairseq's .pt, safetensors, Hugging Face's KOSMOS-2, and weights to start a decoder from.

files.py                 reads files of weights; writes new files and folders atomically
state_dict.py            checks that weights match a configuration
safetensors_file.py      any fairseq checkpoint ⇄ one .safetensors file
fairseq_checkpoint.py    reads a KOSMOS model's checkpoint; writes new ones
adapter.py               --lora-rank: an adapter finds its base and is merged into it
embedded.py              the vocabulary that a checkpoint carries, so that it loads anywhere
decoder_weights.py       --decoder-weights: a decoder that starts from a text-only model
transformers_*.py        any architecture ⇄ a folder for transformers, with the code in `transformers_code/`
model_card.py            its model card
huggingface*.py          the architecture kosmos_2 ⇄ transformers' Kosmos2ForConditionalGeneration
convert.py               kosmos-convert: chooses reader and writer
"""

from kosmos_plugin.compat.quiet_import import import_fairseq

import_fairseq()  # before a module here does, with fairseq's own messages
