"""``penstock demo``: index Python's standard library, kill a worker on the way, lose nothing."""
