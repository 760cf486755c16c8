"""From files on a disk to batches of augmented views."""
