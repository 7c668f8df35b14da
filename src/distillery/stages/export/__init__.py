"""Stage 'export': the student as an ONNX model that takes raw rows."""
