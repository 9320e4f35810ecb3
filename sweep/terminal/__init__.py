"""The live table of trials."""
