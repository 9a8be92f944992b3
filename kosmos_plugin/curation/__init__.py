"""Raw text, caption dumps, web pages and instructions → the shards and binarized text that training reads.

    recipes/      one file for each `kosmos-prepare` command: its stages
    readers/      input formats → documents
    filters/      which documents are dropped, and why
    formatters/   steps that change documents
    dedup/        duplicates and near-duplicates
    sampling/     deterministic samples and splits
    writers/      documents → shards, indexes and binarized text
    pipeline/     runs the stages, resumes them and reports

A recipe is a list of stages, and a stage is a datatrove pipeline cut into tasks. Tasks run in any order and on any
machine, and a finished task is not repeated.
"""
