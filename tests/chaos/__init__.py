"""Faults on purpose: every crash point of a script of work, and a storm of kills over thousands of tasks."""
