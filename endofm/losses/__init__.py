"""Objectives: tensors in, numbers out."""
