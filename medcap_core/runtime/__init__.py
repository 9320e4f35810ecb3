"""Devices, workers, caches, files and libraries."""
