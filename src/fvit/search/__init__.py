"""Hyperparameter search with Optuna. Needs the extra `optuna`, so nothing imports this before a search starts."""
