"""From raw text, caption dumps, web pages and instructions to the shards and binarized text that training reads.

Each kind of corpus is a list of stages (`engine`), and a stage a pipeline of datatrove's: steps that pass documents on,
cut into tasks that run in any order, on any machine, and are not done twice.
"""
