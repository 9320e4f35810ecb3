"""The small models shipped with the package."""
