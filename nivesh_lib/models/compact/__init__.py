"""Small and fast models: hashed n-grams, ONNX, 8-bit integers."""
