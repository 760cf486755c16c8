"""From weight files to models: files, layouts, sizes, and the checkpoint doctor."""
