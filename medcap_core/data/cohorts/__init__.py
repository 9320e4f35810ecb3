"""The five cohorts of MedBLIP (arXiv 2305.10799): a table of scans from a cohort's own tables and its volumes.

All are access-controlled, so nothing here was run on the real files; each module names the source that confirms its
columns. Report sentences are this project's own, built from the tables' columns.
"""

from medcap_core.data.cohorts.scans import COHORTS, CohortScans, describe_visit, find_cohort_scans, write_scan_table

__all__ = ["COHORTS", "CohortScans", "describe_visit", "find_cohort_scans", "write_scan_table"]
