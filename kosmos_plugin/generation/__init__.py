"""Text from a trained model: greedy and beam search, likelihoods of given texts, conversations.

    prompt.py          text with `<image>` and image files → Document
    prefill.py         prompts → DecodingState, and the hidden states that predict their next tokens
    decoding_state.py  the KV cache of a batch of sequences
    stepper.py         one step: the likeliest next tokens of each row, then one more token per row
    static_stepper.py  the same in steps of fixed shapes, which a GPU decodes in
    static_step.py     such a step, recorded as a CUDA graph
    beam_search.py     the strategies: greedy and beam search
    token_trie.py      constrained decoding: only some texts can be generated
    likelihood.py      log-probabilities of candidates after their prompts
    conversation.py    turns whose text and images stay in the cache
    device.py          where a model runs, and in which precision
    generator.py       `Generator`, which puts all of it behind one class, and `load`

Shapes: B prompts, R rows (prompts, beams or candidates), T positions, L tokens of one sequence, M scored positions,
N images, E width of the decoder, V vocabulary.
"""
