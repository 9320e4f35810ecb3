"""Hyperparameter and ablation sweeps over trials, on Ray."""
