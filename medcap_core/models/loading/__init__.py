"""Loading of weights, with faulty checkpoints reported."""
