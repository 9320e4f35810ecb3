"""What several tests build on: small models, spaces, runs and scans."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
