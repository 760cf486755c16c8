"""Fine-tuning: configuration, plan, loop and evaluation; the mechanism is endofm."""
