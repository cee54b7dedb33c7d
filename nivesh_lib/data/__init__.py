"""Versioned, checked data: rows in, training rows out."""
