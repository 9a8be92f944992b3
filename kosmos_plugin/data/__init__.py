"""Training data, from shards on disk to batches. In reading order:

    documents                  Document: text and images in reading order, whatever their source
    tar_files, index_file      the files in a tar; the format of an index
    shard_index ─→ shards      tars of captions and of interleaved pages → documents, by an index
    samples                    Document → Sample: token ids, image slots and targets (Table 21)
    text                       binarized text → samples that fill a row
    order ─→ mixture           which samples make up update u, as arithmetic
    packing                    samples → rows → micro-batches of nearly equal work
    batch ─→ micro_batches     rows → tensors, in worker processes

`config` reads the data YAML; `skips` counts broken records and images. Nothing here imports fairseq.
"""
