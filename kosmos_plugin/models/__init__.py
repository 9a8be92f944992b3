"""The model: vision tower → resampler → decoder. It knows no fairseq task, no checkpoints and no generation.

Letters of tensor shapes, in docstrings (`[B, T, E]`) and as suffixes of names (`q_BTHD`):

    B  rows of a batch                          N  images
    T  positions of a row                       S  side of an image in pixels
    M  tokens of a batch, mostly without        L  features per image
       its padding, as one flat sequence        W  width of the features
    E  width of the decoder                     K  image tokens: embeddings per image in the decoder's input
    H  attention heads                          G  rows of one attention call
    D  width of a head, E / H                   P  positions of such a row; keys in a KV cache
    V  vocabulary

Files in reading order: config, kosmos, batch_plan, decoder, attention, attention_plan, positions, resampler, vision,
cross_entropy; then varlen_attention and dropout_attention (kernels for GPUs and CPUs) and kv_cache, static_cache,
paged_cache and attention_weights (generation).
"""
