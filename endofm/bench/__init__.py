"""What a pretraining step and its data cost here, beside a plain reference of our own."""
