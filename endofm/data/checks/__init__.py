"""What one decoding of a clip says about it, and whether it can be trained on."""
