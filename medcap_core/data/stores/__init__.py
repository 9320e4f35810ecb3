"""Stores on disk: decoded images, features, captions."""
