"""Classifiers that wrap other classifiers."""
