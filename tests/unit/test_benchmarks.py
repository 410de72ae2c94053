"""The benchmarks' arithmetic, and their assumptions about this repository."""

import os
import resource
import shutil
import subprocess
import sys
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import parts
from benchmarks.parts import PARTS, Replacement
from benchmarks.processor import (
    child_pids,
    family_seconds,
    parent_pid,
    processor_seconds,
    stat_seconds,
    threads_seconds,
)
from benchmarks.report import (
    Line,
    Results,
    at_least,
    at_most,
    figures_table,
    goals_table,
    p50,
    p99,
    processor,
    rate,
    ratios_table,
    tail,
)
from benchmarks.revisions import checked_out, unmet_requirements
from benchmarks.settings import ROOT
from benchmarks.wrk import Load, Run
from galaxy_express.desk import DeliveryDesk

SEND = Line("send", Load("send", 64))
BATCHES = Line("batches", Load("batch", 4), packages=500)
HEALTH = Line("health", Load("get", 64, "/health"))


def run(
    good: int = 100, seconds: float = 1, p50: float = 1, p99: float = 1, processor: float = 1
) -> Run:
    """A run with some figures."""
    return Run(seconds, good, good, 0, p50, p99, processor=processor)


def results(line: Line, *runs: Run) -> Results:
    """The results of a line."""
    collected = Results()
    for each in runs:
        collected.add(line, each)
    return collected


def test_figures_of_a_run() -> None:
    """Rate and CPU time are per successful response, or per package for lines that count those."""
    figures = run(good=50, seconds=2, p50=3, p99=12, processor=0.5)
    assert rate(SEND, figures) == 25
    assert rate(BATCHES, figures) == 25 * 500
    assert processor(SEND, figures) == 10_000
    assert processor(BATCHES, figures) == 20
    assert (p50(SEND, figures), p99(SEND, figures), tail(SEND, figures)) == (3, 12, 4)


def test_figure_is_the_median_of_the_rounds() -> None:
    """A single bad round doesn't change a figure."""
    rounds = results(SEND, run(good=10), run(good=1000), run(good=20))
    assert rounds.median(rate, SEND) == 20


def test_ratio_is_the_median_of_the_ratios_per_round() -> None:
    """Each round is compared with the same round, not with the others."""
    both = results(SEND, run(good=10), run(good=90), run(good=40))
    for good in (10, 30, 80):
        both.add(HEALTH, run(good=good))
    assert both.ratio(rate, SEND, HEALTH) == 1, "of 1, 3 and 0.5; of the medians 40 / 30"


def test_ratio_to_another_revision() -> None:
    """The first results are divided by the second, round by round."""
    this = results(SEND, run(p99=1), run(p99=4), run(p99=9))
    other = results(SEND, run(p99=2), run(p99=16), run(p99=3))
    assert this.ratio_to(other, p99, SEND) == 0.5


def test_rounds_without_a_counterpart_are_an_error() -> None:
    """Results with different numbers of rounds can't be compared."""
    with pytest.raises(ValueError, match="shorter"):
        results(SEND, run(), run()).ratio_to(results(SEND, run()), rate, SEND)


def test_goals() -> None:
    """A goal is reached at its figure or better."""
    measured = (0.9, 1.0, 1.1)
    assert [at_least("", 1, figure).is_reached for figure in measured] == [False, True, True]
    assert [at_most("", 1, figure).is_reached for figure in measured] == [True, True, False]
    assert goals_table([at_most("waste", 1.2, 1.25)]).splitlines()[-1] == (
        "| waste | at most 1.2 | 1.25 | no |"
    )


def test_tables() -> None:
    """Tables show the figures or ratios of each measured line."""
    this = results(SEND, run(good=1200, p50=2, p99=5, processor=0.6))
    other = results(SEND, run(good=400, p50=4, p99=20, processor=0.4))
    assert figures_table(this, [SEND, HEALTH]).splitlines()[2:] == [
        "| send | 64 | 1,200 | 2.00 | 5.00 | 500 | 0 |"
    ]
    assert ratios_table(this, other, [SEND, HEALTH]).splitlines()[2:] == [
        "| send | 64 | 3.00 | 0.50 | 0.25 | 0.50 | 0 / 0 |"
    ]


def test_line_of_proc_stat() -> None:
    """User and system time are added, even if the program's name contains odd characters."""
    ticks = os.sysconf("SC_CLK_TCK")
    name = "a (strange) name"
    fields = ["S", *["1"] * 10, str(3 * ticks), str(ticks), *["9"] * 30]
    assert stat_seconds(f"123 ({name}) {' '.join(fields)}\n") == 4


def test_line_of_proc_stat_with_ended_children() -> None:
    """The time of children that have ended is added only where it is asked for."""
    ticks = os.sysconf("SC_CLK_TCK")
    fields = ["S", *["1"] * 10, *(str(seconds * ticks) for seconds in (1, 2, 4, 8)), *["9"] * 30]
    stat = f"123 (a name) {' '.join(fields)}\n"
    assert stat_seconds(stat) == 3
    assert stat_seconds(stat, ended_children=True) == 15


def test_cpu_time_of_a_family() -> None:
    """The CPU time of a process and its children includes living children and those that ended."""
    # The kernel counts user and system time in ticks of 0.01 s each, and leaves out the rest.
    used = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True); input()"
    before = family_seconds(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-S", "-c", used],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert parent_pid(child.pid) == os.getpid()
        assert child.pid in child_pids(os.getpid())
        assert family_seconds(os.getpid()) >= before + 0.175
        child.communicate(b"\n")
    assert child.pid not in child_pids(os.getpid())
    assert family_seconds(os.getpid()) >= before + 0.175


def test_cpu_time_matches_the_operating_system() -> None:
    """The CPU time is that reported by the operating system, including all threads."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    tick = 2 / os.sysconf("SC_CLK_TCK")
    before = used()
    measured = processor_seconds([os.getpid()])
    assert before - tick <= measured <= used() + tick
    assert sum(threads_seconds([os.getpid()])) <= used() + tick


def test_unmet_requirements() -> None:
    """Missing packages and wrong versions are reported, unless they are for other platforms."""
    version = metadata.version("gunicorn")
    requirements = f"""
        # a comment
        gunicorn=={version}
        pyramid==0.1
        no-such-package==1.0
        colorama==0.4 ; sys_platform == 'win32'
    """
    assert unmet_requirements(requirements) == ["pyramid==0.1", "no-such-package==1.0"]


def test_requirements_with_hashes() -> None:
    """The requirements of this revision, which have hashes, are met."""
    assert unmet_requirements((ROOT / "requirements.txt").read_text()) == []


@pytest.mark.skipif(not shutil.which("git"), reason="git isn't installed")
def test_unknown_revision(tmp_path: Path) -> None:
    """An unknown git revision ends the program with a one-line message."""
    with (
        pytest.raises(SystemExit, match=r"^git has no revision no-such-revision\.$"),
        checked_out("no-such-revision", tmp_path),
    ):
        pass


def test_each_part_adds_something() -> None:
    """All parts of a profile differ, and the last one is the whole service."""
    replacements = list(PARTS.values())
    assert all(one != other for one, other in pairwise(replacements))
    assert PARTS[parts.WHOLE] == replacements[-1] == ()


def test_part_of_a_profile_must_fit() -> None:
    """A profile that replaces a method whose parameters have changed is an error."""
    with pytest.raises(TypeError, match=r"Replacement\.apply has other parameters"):
        Replacement(Replacement, "apply", lambda: None)


def test_part_of_a_profile_must_exist() -> None:
    """A profile that replaces a method which no longer exists is an error."""
    with pytest.raises(AttributeError, match="DeliveryDesk defines no method no_such_method"):
        Replacement(DeliveryDesk, "no_such_method", lambda: None)


def test_benchmarks_need_only_the_server_helpers_of_the_tests() -> None:
    """The benchmarks don't import pytest or the tests' fixtures."""
    imported = {
        line.split()[1]
        for path in (ROOT / "benchmarks").glob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith(("from tests", "import tests", "import pytest", "from pytest"))
    }
    assert imported == {"tests.backends", "tests.servers.running"}
