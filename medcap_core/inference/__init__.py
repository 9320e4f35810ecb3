"""Captions and answers of a split, generated from pixels or features."""
