"""From original downloads to clips that can be trusted.

An adapter understands one source's original layout and yields its `Source`s: a video or pictures in
natural order, with group, split, labels, masks and boxes. The engine cuts them into clips, checks
what it wrote, and goes on where it was stopped.
"""
