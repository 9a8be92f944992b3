"""An OpenAI-compatible server over an engine that generates many requests at once.

    options.py         what the command line sets
    sequence.py        a sequence that is being generated
    block_pool.py      which blocks of the KV cache are in use, and which hold a beginning that others may share
    scheduler.py       what the model computes in the next step
    prompt.py          samples → prompts with decoded images
    image_cache.py     embeddings of the images that were used last
    engine.py          `Engine`: the thread that generates
    protocol.py        requests, checked
    chat_prompt.py     messages → texts and images
    remote_images.py   images at URLs, from public addresses only
    requests.py        requests → prompts
    answers.py         answers, whole or in chunks
    errors.py          errors in OpenAI's form
    keys.py            the keys that requests may have
    guard.py           what every request passes: key and limits
    metrics.py         what the server does, for Prometheus
    generation.py      a request in the engine, as seen from the event loop
    listening.py       the socket, and the names of the server
    app.py             `create_app`: the routes
    server.py          the program
    page/              a page to talk to the model

The cache of keys and values itself is `kosmos_plugin.models.paged_cache`. The engine and what it stands on do not
import fastapi, and only the page imports gradio.
"""
