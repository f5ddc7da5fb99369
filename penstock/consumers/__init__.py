"""The running worker: what fetches, runs and settles tasks."""
