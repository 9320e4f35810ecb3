"""Captions and answers for a split, from pixels or features."""
