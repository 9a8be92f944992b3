"""Input formats → documents."""
