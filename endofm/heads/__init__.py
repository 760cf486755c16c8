"""What stands on a backbone's features."""
