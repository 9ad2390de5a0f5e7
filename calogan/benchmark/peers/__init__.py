"""Comparators: the network of a model in TFLite, ONNX Runtime and OpenVINO."""
