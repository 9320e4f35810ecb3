"""Beam search over all images of a batch."""
