"""What the fine-tuning program needs of every task."""
