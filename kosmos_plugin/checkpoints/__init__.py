"""Checkpoints in and out: fairseq's .pt, safetensors, Hugging Face's KOSMOS-2, and weights to start a decoder from."""
