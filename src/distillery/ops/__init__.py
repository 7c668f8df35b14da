"""Pure functions of arrays: metrics, pooling, encodings, random numbers, image operations."""
