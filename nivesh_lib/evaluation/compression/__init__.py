"""Evaluation of compressed models against the model that they replace."""
