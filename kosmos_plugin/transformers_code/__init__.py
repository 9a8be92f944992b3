"""The code that `kosmos-convert` puts into a folder for transformers; it imports nothing of this package.

    configuration_kosmos.py      KosmosConfig
    modeling_kosmos.py           KosmosModel, and KosmosForConditionalGeneration with the output projection
    decoder_kosmos.py            the decoder: xPos, Magneto's sub-LayerNorm, key–value cache
    vision_kosmos.py             the vision encoders: CLIP's vision transformers and EfficientNet-lite
    resampler_kosmos.py          features of an image → its embeddings in the sequence
    processing_kosmos.py         KosmosProcessor: text with `<image>`, and images → the model's inputs
    image_processing_kosmos.py   KosmosImageProcessor: images of any kind → pixels
    tokenization_kosmos.py       KosmosTokenizer
    processing_kosmos_2.py       Kosmos2ChatProcessor, for transformers' own KOSMOS-2 (--to huggingface)

It is written for transformers 4.57 and later, and needs neither fairseq nor TorchScale. The tests hold it to the
logits, tokens and pixels of `models/`, `vocabulary` and `images`.
"""
