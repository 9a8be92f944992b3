"""Filters of texts, captions, images and pages."""
