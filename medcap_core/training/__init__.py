"""Train one trial: `loop.fit`, read from top to bottom."""
