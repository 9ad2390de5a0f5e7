"""The network of a model in TFLite, ONNX Runtime and OpenVINO, to compare int8 with."""
