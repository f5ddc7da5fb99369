"""Expressions that are right with any number of exporters side by side: of those that report a series one is taken.

And that say nothing, rather than 0 or what was true a while ago, of what is not known: `at_present`, `known`.
"""

from __future__ import annotations

#: Labels that tell exporters apart, and nothing else.
_OF_EXPORTERS = "instance, pod, endpoint, container"
#: What each dashboard's variables choose.
JOB = 'job=~"$job"'
QUEUE = f'{JOB}, queue=~"$queue"'
TASK = f'{QUEUE}, task=~"$task"'
WORKER = f'{JOB}, worker=~"$worker"'
NODE = f'{JOB}, node=~"$node"'
#: Of ALERTS. Those about no exporter at all have no job.
FIRING = 'alertname=~"Penstock.*", alertstate="firing", job=~"$job|"'
#: Grafana's own window for lines; that of figures and tables, which have no step to go by.
STEP, LATELY, SHOWN = "$__rate_interval", "5m", "$__range"
#: 1 if Redis answers all jobs; 0 also if a job has lost its exporters within the time that is shown.
UP = (
    f"min(max by (job) (penstock_redis_up{{{JOB}}}) "
    f"or 0 * max by (job) (max_over_time(penstock_redis_up{{{JOB}}}[{SHOWN}])))"
)


def at_present(expr: str) -> str:
    """Nothing while Redis or an exporter is away: the rate of a window is there until the whole of it has passed."""
    return f"({expr}) and on () ({UP} == 1)"


def known(expr: str) -> str:
    """0 where `expr`, which has no labels, has nothing: nothing was counted yet. Not while nobody counts.

    (``or vector(0)`` says then that nothing fails.)
    """
    return at_present(f"{expr} or 0 * {UP}")


def one(expr: str) -> str:
    """Of each series one."""
    return f"max without ({_OF_EXPORTERS}) ({expr})"


def gauge(name: str, selector: str) -> str:
    """Its value."""
    return one(f"{name}{{{selector}}}")


def rate(name: str, selector: str, window: str = STEP) -> str:
    """A counter's rate per second."""
    return one(f"rate({name}{{{selector}}}[{window}])")


def increase(name: str, selector: str) -> str:
    """What a counter has grown by over the time that is shown."""
    return one(f"increase({name}{{{selector}}}[{SHOWN}])")


def total(expr: str, by: str = "") -> str:
    """The sum of what `one` has left."""
    return f"sum by ({by}) ({expr})" if by else f"sum({expr})"


def most(name: str, selector: str, by: str) -> str:
    """The greatest of a gauge; exporters do not matter to it."""
    return f"max by ({by}) ({name}{{{selector}}})"


def of_queues(name: str, selector: str) -> str:
    """A gauge of each queue."""
    return most(f"penstock_queue_{name}", selector, "job, queue")


def unpaused(kind: str, name: str, selector: str) -> str:
    """The sum (or max, by `kind`) of a gauge of queues, but for those that are paused: they wait on purpose, and no alert
    is about them. 0 if all are."""
    each = of_queues(name, selector)
    return f"{kind}({each} unless on (job, queue) {of_queues('paused', selector)} == 1) or 0 * {kind}({each})"


def share(part: str, whole: str) -> str:
    """A ratio, where there is a whole."""
    return f"{part} / ({whole} > 0)"


def failing(selector: str, by: str = "", window: str = STEP) -> str:
    """The share of the tasks that ended which failed for good; 0 also where none ever has."""
    ended = total(rate("penstock_tasks_finished_total", selector, window), by)
    failed = total(rate("penstock_tasks_finished_total", f'{selector}, outcome="failed"', window), by)
    return share(f"({failed} or 0 * {ended})", ended)


def quantile(q: float, name: str, selector: str, by: str = "", *, window: str = STEP, of: str = "") -> str:
    """Of a histogram; `of`: only of those queues of which there is this."""
    labels = f"{by}, le" if by else "le"
    buckets = rate(f"{name}_bucket", selector, window)
    return f"histogram_quantile({q}, {total(f'{buckets} and on (job, queue) {of}' if of else buckets, labels)})"
