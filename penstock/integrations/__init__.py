"""Middlewares for other libraries, each in a module of its own; none is loaded unless it is imported."""
