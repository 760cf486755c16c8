"""Backbones, their registry, and published weights."""
