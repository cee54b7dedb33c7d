"""Metrics with intervals: arrays in, plain values out."""
