"""A page to talk to the model: Gradio's chat over the server's own engine.

dialogue.py    what was said: turns of text and images, and their answers
answering.py   `Answering`: a dialogue → its answer, as it is generated
looking.py     `Looking`: where the model looked for a token of an answer
examples.py    the paper's kinds of prompts, with pictures drawn by code
layout.py      `layout`: the page's components, and what each of them does
access.py      `PageAccess`: which of Gradio's routes and files a browser may use
mounting.py    `mount_page`: the page as a part of the server
"""
