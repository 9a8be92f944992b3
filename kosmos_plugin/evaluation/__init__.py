"""Evaluation (§4 of the paper): benchmarks, their metrics, and reports with the paper's figures beside."""
