"""The metrics of benchmarks: answers → Scores. They wrap standard packages where a maintained one exists."""
