"""Pretrain, evaluate and load video transformers for endoscopy."""

from endofm.hub import load
from endofm.models.registry import create_model, list_models

__version__ = "0.1.0"
__all__ = ["__version__", "create_model", "list_models", "load"]
