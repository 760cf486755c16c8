"""Objectives of pretraining, one file each."""
