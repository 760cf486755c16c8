"""Clips that show what others show: finding them, and refusing to train on them."""

from endofm.data.leakage.find import Member, find_leaks
from endofm.data.leakage.known import (
    Leak,
    known_leaks,
    leaks_file,
    read_leaks,
    refuse_leaks,
    write_leaks,
)

__all__ = [
    "Leak",
    "Member",
    "find_leaks",
    "known_leaks",
    "leaks_file",
    "read_leaks",
    "refuse_leaks",
    "write_leaks",
]
