"""The order of a run, and batches from processes that read clips."""
