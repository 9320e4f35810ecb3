"""The report page: `python -m sweep.report RUN_DIR`."""
