"""Evaluation results for readers: tables, a plot, comparisons, and a page for each result."""
