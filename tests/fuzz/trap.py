"""A module that nothing may import because a message names it."""

raise AssertionError("a message made a worker import this module")
