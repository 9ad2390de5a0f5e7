"""Generator and discriminator families, written in `keras.ops`, so for any backend of Keras."""
