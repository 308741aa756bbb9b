"""Searching hyperparameters with Optuna. Needs the extra `optuna`, so nothing imports this before a study starts."""
