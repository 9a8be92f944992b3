"""The metrics of benchmarks: answers → Scores. Wrappers of the field's own packages where there is a maintained one."""
