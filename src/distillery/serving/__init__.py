"""What travels inside a registered model. Imports the standard library, numpy, pandas and onnxruntime alone.

The same files turn cells into inputs in training, in `distillery predict` and in a model that MLflow serves.
"""
