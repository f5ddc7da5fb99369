"""Uses of the public API, right and wrong, for type checkers. Nothing here is run; see tests/test_typing.py."""
