"""Segmentation of frames."""
