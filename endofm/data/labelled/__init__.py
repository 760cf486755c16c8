"""Labelled clips: rows, annotations, geometry and samples."""
