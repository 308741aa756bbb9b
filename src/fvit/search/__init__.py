"""Hyperparameter search with Optuna, of the extra `optuna`: imported only when a search starts."""
