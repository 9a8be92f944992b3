"""The paper's settings and reported results, as data."""
