"""LSTM, transformers and frozen embeddings, and what they share."""
