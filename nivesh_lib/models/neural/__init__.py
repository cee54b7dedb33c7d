"""LSTM, transformer and frozen-embedding classifiers, and their training code."""
