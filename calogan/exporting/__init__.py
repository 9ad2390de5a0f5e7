"""Models for programs without this package: SavedModel and ONNX."""
