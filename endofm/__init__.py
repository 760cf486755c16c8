"""Pretrain, evaluate and load video transformers for endoscopy."""

from endofm.hub import load
from endofm.models.registry import create_model, list_models
from endofm.tasks.embedding.videos import Embedding, embed

__version__ = "0.1.0"
__all__ = ["Embedding", "__version__", "create_model", "embed", "list_models", "load"]
