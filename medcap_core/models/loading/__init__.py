"""Read weights, and name what is wrong with a checkpoint."""
