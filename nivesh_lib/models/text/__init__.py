"""Rules and n-grams, and the text handling they share."""
