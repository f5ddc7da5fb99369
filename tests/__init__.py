"""The tests. Helpers are imported as ``tests.<module>``."""
