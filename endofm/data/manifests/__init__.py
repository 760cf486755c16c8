"""Manifests: tables of clips, their splits, labels and quarantine."""
