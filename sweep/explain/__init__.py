"""Attention pictures of a run's models: `python -m sweep.explain RUN_DIR`."""
