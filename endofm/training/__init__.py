"""The machinery of a run: set-up, schedules, optimizer, checkpoints, log, monitor."""
