"""The generator families, each in one file, in `keras.ops`; exact rewrites before quantization."""
