"""Network, head, loss and metrics together."""
