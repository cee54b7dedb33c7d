"""Releases: judging a model before it is promoted."""
