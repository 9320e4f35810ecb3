"""The run directory: records, study.db, proposals, ranking, results. Alone in using optuna, but for plots."""
