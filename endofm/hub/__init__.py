"""Models: loading them from whatever a user holds; model folders: writing and checking them."""

from endofm.hub.folder import FORMAT, REFERENCE_TOLERANCE, check, save
from endofm.hub.loading import examine, find, load

__all__ = ["FORMAT", "REFERENCE_TOLERANCE", "check", "examine", "find", "load", "save"]
