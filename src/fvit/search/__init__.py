"""Searches whose next jobs depend on the results of earlier ones: Optuna (an optional extra), and over blocks."""
