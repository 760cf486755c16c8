"""From a clip to augmented views, and batches of them."""
