"""How a recipe runs: its stages and tasks, their input and intermediate files, and the report."""
