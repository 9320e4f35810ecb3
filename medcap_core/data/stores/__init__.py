"""Stores on disk: decoded images and features."""
