"""Text from a trained model: greedy and beam search, sampling, likelihoods of given texts, conversations, attention.

    options.py         the options, with the names of the field
    image_sources.py   paths, bytes, Pillow's images, arrays, … → images of a document
    prompt.py          text with `<image>`, and images → Document
    prefill.py         prompts → DecodingState, and the hidden states that predict their next tokens
    decoding_state.py  the KV cache of a batch of sequences
    stepper.py         one step: the likeliest next tokens of each row, then one more token per row
    static_stepper.py  the same in steps of fixed shapes, which a GPU decodes in
    static_step.py     such a step, recorded as a CUDA graph
    penalties.py       what prompt and text have already is made less likely
    sampling.py        the next token, drawn from the model's distribution
    token_by_token.py  greedy search and sampling
    beam_search.py     beam search, and what chooses between it and the former
    token_trie.py      constrained decoding: only some texts can be generated
    ending.py          what ends a text
    text_stream.py     tokens → text, as they come
    streaming.py       a text as it is generated
    results.py         what was generated, in tokens and in text
    likelihood.py      log-probabilities of candidates after their prompts
    template.py        what a user says → a prompt of the kind that a model was trained on
    turn.py            a turn of a conversation, and its answer
    conversation.py    turns whose text and images stay in the cache
    attention_map.py   where in the images the model looked for each token of an answer
    overlay.py         such a map, drawn over the picture
    device.py          where a model runs, and in which precision
    generator.py       `Generator`, which puts all of it behind one class, and `load`

Shapes: B prompts, R rows (prompts, beams or candidates), T positions, L tokens of one sequence, M scored positions,
N images, K image tokens, Q positions whose attention is kept, E width of the decoder, V vocabulary.
"""
