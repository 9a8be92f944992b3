"""kosmos-prepare index: an index of all records beside each tar.

    TAR.kosmos_index the index (`data/shard_index`); a tar that is cut short, or not a tar, gets none
    OUT/bad.jsonl    a line for each tar without an index, and why

index shards ─→ a list of bad tars per task ─→ list shards
"""

from kosmos_plugin.curation.options import IndexOptions
from kosmos_plugin.curation.pipeline.bad_records import BAD_FILE, JoinBadRecords
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.writers.index_shards import IndexShards, tars_of


def stages(run: Run[IndexOptions]) -> list[Stage]:
    """Make the stages of a run. UserError for wrong inputs."""
    tars, bad = tars_of(run.inputs), run.intermediate / "bad"
    return [
        Stage("index shards", [IndexShards(tars, bad)], len(tars)),
        Stage("list shards", [JoinBadRecords(bad, run.out / BAD_FILE)], 1),
    ]
