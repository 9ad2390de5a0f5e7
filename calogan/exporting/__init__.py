"""Exports of models for programs without this package: SavedModel and ONNX."""
