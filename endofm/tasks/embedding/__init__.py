"""Features of whole videos and clips from a frozen model, and what they know."""
