"""Model folders: writing them, loading them, checking them."""

from endofm.hub.folder import FORMAT, REFERENCE_TOLERANCE, check, load, save

__all__ = ["FORMAT", "REFERENCE_TOLERANCE", "check", "load", "save"]
