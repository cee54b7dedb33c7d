"""Small and fast models: static tables, ONNX graphs, int8 weights."""
