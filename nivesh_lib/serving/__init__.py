"""Answers for one query or many."""
