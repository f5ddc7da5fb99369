"""Expressions that are right with any number of exporters side by side: of those that report a series one is taken."""

from __future__ import annotations

#: Labels that tell exporters apart, and nothing else.
_OF_EXPORTERS = "instance, pod, endpoint, container"
#: What each dashboard's variables choose.
JOB = 'job=~"$job"'
QUEUE = f'{JOB}, queue=~"$queue"'
TASK = f'{QUEUE}, task=~"$task"'
WORKER = f'{JOB}, worker=~"$worker"'
NODE = f'{JOB}, node=~"$node"'


def one(expr: str) -> str:
    """Of each series one."""
    return f"max without ({_OF_EXPORTERS}) ({expr})"


def gauge(name: str, selector: str) -> str:
    return one(f"{name}{{{selector}}}")


def rate(name: str, selector: str) -> str:
    """A counter's rate per second."""
    return one(f"rate({name}{{{selector}}}[$__rate_interval])")


def increase(name: str, selector: str) -> str:
    return one(f"increase({name}{{{selector}}}[$__rate_interval])")


def total(expr: str, by: str = "") -> str:
    """The sum of what `one` has left."""
    return f"sum by ({by}) ({expr})" if by else f"sum({expr})"


def most(name: str, selector: str, by: str) -> str:
    """The greatest of a gauge; exporters do not matter to it."""
    return f"max by ({by}) ({name}{{{selector}}})"


def quantile(q: float, name: str, selector: str, by: str = "") -> str:
    """Of a histogram."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, {total(rate(f'{name}_bucket', selector), labels)})"
