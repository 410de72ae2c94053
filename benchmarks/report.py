"""Figures of several rounds, their medians, goals, and tables in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.wrk import Load, Run


@dataclass(frozen=True)
class Line:
    """A measurement, which is one line in the table.

    :param load: the load that wrk sends, or ``None`` if the figures don't come from wrk.
    :param packages: the number of packages per request, if packages are counted.
    """

    name: str
    load: Load | None
    packages: int = 1

    @property
    def connections(self) -> str:
        """The number of connections, for a table."""
        return str(self.load.connections) if self.load else ""


#: A function that returns a figure of a run; see below.
Figure = Callable[[Line, Run], float]


def rate(line: Line, run: Run) -> float:
    """Requests or packages per second."""
    return line.packages * run.good / run.seconds


def p50(line: Line, run: Run) -> float:
    """The median latency in milliseconds."""
    return run.p50


def p99(line: Line, run: Run) -> float:
    """The 99th percentile of the latency in milliseconds."""
    return run.p99


def tail(line: Line, run: Run) -> float:
    """The p99 as a multiple of the p50."""
    return run.p99 / run.p50


def processor(line: Line, run: Run) -> float:
    """CPU time of the server per request or package, in microseconds."""
    return 1e6 * run.processor / (line.packages * run.good)


class Results:
    """The runs of each line, one per round.

    A figure is the median over the rounds. A ratio is the median of the ratios per round, not the
    ratio of two medians, since the machine was in a similar state during each round.
    """

    def __init__(self) -> None:
        self._runs: dict[Line, list[Run]] = defaultdict(list)

    def __contains__(self, line: Line) -> bool:
        return line in self._runs

    def add(self, line: Line, run: Run) -> None:
        """Add the run of a round."""
        self._runs[line].append(run)

    def median(self, figure: Figure, line: Line) -> float:
        """The median of a figure over all rounds."""
        return median(self._figures(figure, line))

    def ratio(self, figure: Figure, line: Line, other: Line) -> float:
        """A figure of a line as a multiple of another line's."""
        return _median_ratio(self._figures(figure, line), self._figures(figure, other))

    def ratio_to(self, others: Results, figure: Figure, line: Line) -> float:
        """A figure of a line as a multiple of the same line's in other results."""
        return _median_ratio(self._figures(figure, line), others._figures(figure, line))

    def errors(self, line: Line) -> int:
        """The number of requests, in all rounds, without a response or with a wrong one."""
        return sum(run.errors for run in self._runs[line])

    def _figures(self, figure: Figure, line: Line) -> list[float]:
        return [figure(line, run) for run in self._runs[line]]


def _median_ratio(figures: Iterable[float], others: Iterable[float]) -> float:
    # A lone request may cost less than the resolution of the CPU clock.
    return median(
        figure / other if other else float("nan")
        for figure, other in zip(figures, others, strict=True)
    )


@dataclass(frozen=True)
class Goal:
    """A goal for a figure, and the measured value."""

    name: str
    goal: str
    reached: float
    is_reached: bool


def at_least(name: str, goal: float, reached: float) -> Goal:
    """A figure that should not be smaller."""
    return Goal(name, f"at least {goal:g}", reached, reached >= goal)


def at_most(name: str, goal: float, reached: float) -> Goal:
    """A figure that should not be greater."""
    return Goal(name, f"at most {goal:g}", reached, reached <= goal)


def figures_table(results: Results, lines: Iterable[Line]) -> str:
    """A table of the lines that were measured."""
    return table(
        ("", "connections", "per second", "p50 ms", "p99 ms", "CPU µs", "errors"),
        (
            (
                line.name,
                line.connections,
                f"{results.median(rate, line):,.0f}",
                f"{results.median(p50, line):.2f}",
                f"{results.median(p99, line):.2f}",
                f"{results.median(processor, line):.0f}",
                str(results.errors(line)),
            )
            for line in lines
            if line in results
        ),
    )


def ratios_table(results: Results, others: Results, lines: Iterable[Line]) -> str:
    """A table of the figures as multiples of those in other results."""
    return table(
        ("", "connections", "per second", "p50", "p99", "CPU", "errors"),
        (
            (
                line.name,
                line.connections,
                *(
                    f"{results.ratio_to(others, figure, line):.2f}"
                    for figure in (rate, p50, p99, processor)
                ),
                f"{results.errors(line)} / {others.errors(line)}",
            )
            for line in lines
            if line in results and line in others
        ),
    )


def goals_table(goals: Iterable[Goal]) -> str:
    """A table of goals."""
    return table(
        ("", "goal", "measured", "reached"),
        (
            (goal.name, goal.goal, f"{goal.reached:.2f}", "yes" if goal.is_reached else "no")
            for goal in goals
        ),
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: a column of text, then columns of figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
