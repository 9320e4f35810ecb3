"""Captioner families."""
