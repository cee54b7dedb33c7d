"""Tracking of runs and models in MLflow."""
