"""What a run leaves behind: files in the run directory, everything in MLflow."""
