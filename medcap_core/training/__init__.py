"""Training of one trial by `loop.fit`, read from top to bottom."""
