"""Keyword rules and n-gram models, and their shared text processing."""
