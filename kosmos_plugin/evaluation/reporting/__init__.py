"""Evaluation results for readers: tables, plots, and a page for each benchmark."""
