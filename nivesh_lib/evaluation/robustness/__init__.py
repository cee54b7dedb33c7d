"""Perturbations, behavioural tests and fairness."""
