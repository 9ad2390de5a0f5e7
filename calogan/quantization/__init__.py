"""The network of a model in int8, by Intel Neural Compressor."""
