"""Data sets of medical images with captions."""
