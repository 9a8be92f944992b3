"""How a recipe runs: stages of tasks, their input and intermediate files, and the report."""
