"""Estimate what a sweep will cost, from a few measured steps."""
