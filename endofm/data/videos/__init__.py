"""Clips that slide over whole videos."""
