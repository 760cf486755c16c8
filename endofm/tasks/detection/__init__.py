"""Detection of boxes in frames."""
