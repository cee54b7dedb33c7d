"""How compressed models are judged against the model they stand in for."""
