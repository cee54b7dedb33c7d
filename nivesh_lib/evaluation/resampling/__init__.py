"""Cross-validation, repeated, on growing parts, and over time."""
