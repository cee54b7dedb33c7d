"""Figures, drift pages, cards and the HTML report."""
