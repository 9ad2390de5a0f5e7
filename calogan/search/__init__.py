"""Which quantization or generator to try next, trying it, and the records."""
