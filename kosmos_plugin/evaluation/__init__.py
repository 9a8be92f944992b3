"""Evaluation (§4 of the paper): benchmarks, metrics, and reports with the paper's results beside the measured ones.

release → Item        benchmarks/      one file per benchmark: its release, its prompts, its metric; or a user's file
  → Request           requests.py      generate a continuation, or choose the likeliest of several
    → Answer          responder.py     the model; requests are batched, shared prompts are read once
      → Scores        metrics/         computed by standard packages where a maintained one exists
        → Result      run.py           resumable and distributed; reporting/ writes tables, plots and pages
"""
