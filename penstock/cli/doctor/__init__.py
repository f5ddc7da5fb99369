"""``penstock doctor``: is the server fit for tasks, may we do what we must, does anything stand still?

`command` asks, `verdicts` judges (it does no I/O).
"""

from __future__ import annotations

from penstock.cli.doctor.command import doctor

__all__ = ["doctor"]
