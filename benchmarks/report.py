"""Figures of several rounds, their medians, and tables of them in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.wrk import Load, Run


@dataclass(frozen=True)
class Line:
    """Something that is measured, and has a line in the table.

    :param load: what wrk sends, or ``None`` if the figures don't come from wrk.
    :param packages: how many are in each request, where packages are what is counted.
    :param beside: what its rate is shown as a multiple of.
    """

    name: str
    load: Load | None
    packages: int = 1
    beside: Line | None = None

    def rate(self, run: Run) -> float:
        """Requests in a second, or packages."""
        return self.packages * run.good / run.seconds


class Results:
    """The runs of each line, one for each round.

    A figure of all rounds is the median of theirs. A ratio is the median of the rounds'
    ratios, not the ratio of two medians: what was measured in one round met with the
    machine in much the same state.
    """

    def __init__(self) -> None:
        self._runs: dict[Line, list[Run]] = defaultdict(list)

    def __contains__(self, line: Line) -> bool:
        return line in self._runs

    def add(self, line: Line, run: Run) -> None:
        """Take down a run."""
        self._runs[line].append(run)

    def rate(self, line: Line) -> float:
        """Requests in a second, or packages."""
        return median(line.rate(run) for run in self._runs[line])

    def p50(self, line: Line) -> float:
        """Milliseconds in which half of the requests were answered."""
        return median(run.p50 for run in self._runs[line])

    def p99(self, line: Line) -> float:
        """Milliseconds in which 99 in 100 requests were answered."""
        return median(run.p99 for run in self._runs[line])

    def tail(self, line: Line) -> float:
        """How many times the p50 the p99 is."""
        return median(run.p99 / run.p50 for run in self._runs[line])

    def errors(self, line: Line) -> int:
        """How many requests, in all rounds, had no answer or not the right one."""
        return sum(run.errors for run in self._runs[line])

    def rate_ratio(self, line: Line, other: Line) -> float:
        """How many times another line's rate this one's is."""
        runs = zip(self._runs[line], self._runs[other], strict=True)
        return median(line.rate(run) / other.rate(other_run) for run, other_run in runs)

    def p50_ratio(self, line: Line, other: Line) -> float:
        """How many times another line's p50 this one's is."""
        runs = zip(self._runs[line], self._runs[other], strict=True)
        return median(run.p50 / other_run.p50 for run, other_run in runs)


@dataclass(frozen=True)
class Goal:
    """A figure to reach, and what was reached."""

    name: str
    goal: str
    reached: float
    is_reached: bool


def at_least(name: str, goal: float, reached: float) -> Goal:
    """A figure that should be so much, or more."""
    return Goal(name, f"at least {goal:g}", reached, reached >= goal)


def at_most(name: str, goal: float, reached: float) -> Goal:
    """A figure that should be so much, or less."""
    return Goal(name, f"at most {goal:g}", reached, reached <= goal)


def figures_table(results: Results, lines: Iterable[Line], beside: str) -> str:
    """A table of those of the lines that were measured.

    :param beside: what the last column is a multiple of.
    """
    return table(
        ("", "connections", "a second", "p50 ms", "p99 ms", "errors", f"/ {beside}"),
        (
            (
                line.name,
                str(line.load.connections) if line.load else "",
                f"{results.rate(line):,.0f}",
                f"{results.p50(line):.2f}",
                f"{results.p99(line):.2f}",
                str(results.errors(line)),
                f"{results.rate_ratio(line, line.beside):.2f}" if line.beside else "",
            )
            for line in lines
            if line in results
        ),
    )


def goals_table(goals: Iterable[Goal]) -> str:
    """A table of goals."""
    return table(
        ("", "goal", "reached", ""),
        (
            (goal.name, goal.goal, f"{goal.reached:.2f}", "yes" if goal.is_reached else "no")
            for goal in goals
        ),
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: a column of text, then columns of figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
