"""Tables for terminals and Markdown, and the base of every HTML page."""
