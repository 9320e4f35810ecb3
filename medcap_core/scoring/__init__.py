"""Scores of captions, answers and classes; intervals, tests and blind baselines."""
