"""Score the test split, once, after the search."""
