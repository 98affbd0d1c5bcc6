"""Conversion to ONNX, and scoring with ONNX Runtime."""
