"""How good features and predictions are."""
