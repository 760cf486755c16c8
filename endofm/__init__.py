"""Pretrain, evaluate and load video transformers for endoscopy."""

__version__ = "0.1.0"
