"""Cross-validation, repeated cross-validation, learning curves and temporal validation."""
