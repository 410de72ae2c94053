"""The README: its commands print what it shows."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.servers.http_client import package
from tests.servers.running import ROOT, WAIT_SECONDS, Installation

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The code blocks of a language or kind."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(session: str) -> Iterator[tuple[str, str]]:
    """The commands of a console session, each with its output.

    A command begins with ``$`` and continues until its quotes are closed.
    """
    for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        length = 1
        while not _is_complete("\n".join(lines[:length])):
            length += 1
        yield "\n".join(lines[:length]), "\n".join(lines[length:])


def _is_complete(command: str) -> bool:
    try:
        return bool(shlex.split(command))
    except ValueError:  # a quote is open
        return False


def pattern(printed: str) -> str:
    """Printed text as a regular expression: a line ``...`` stands for any lines, and ``...`` within
    a line for any text."""
    return "".join(
        "(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n"
        for line in printed.splitlines()
    )


@pytest.mark.skipif(not shutil.which("curl"), reason="the README's commands need curl")
@pytest.mark.parametrize("name", ["baseplate-serve", "gunicorn"])
def test_walk_through(installation: Installation, name: str) -> None:
    """The commands of the walk-through, run in order, print what it shows."""
    with installation.server(name) as server:
        tried = 0
        for session in blocks("console"):
            for command, expected in commands(session):
                here = command.replace("localhost:9090", f"127.0.0.1:{server.port}")
                printed = subprocess.run(
                    ["bash", "-c", re.sub(r"^curl ", "curl -s ", here)],
                    check=True,
                    capture_output=True,
                    text=True,
                    timeout=WAIT_SECONDS,
                ).stdout
                printed = printed.rstrip("\n") + "\n"
                assert re.fullmatch(pattern(expected), printed), (
                    f"$ {command}\nshould print\n{expected}\nand prints\n{printed}"
                )
                tried += 1
    assert tried >= 10, "the README walks through every endpoint"


@pytest.mark.skipif(not shutil.which("git"), reason="git isn't installed")
def test_adding_a_package_type(installation: Installation) -> None:
    """The diff that adds a package type applies and suffices: sends, preferences and statistics
    support the type."""
    (diff,) = blocks("diff")
    (name,) = re.findall(
        r'^\+ +PackageType\("(\w+)", wanted_by_default=False\),$', diff, re.MULTILINE
    )
    copy = installation.folder / "checkout"
    shutil.copytree(ROOT / "galaxy_express", copy / "galaxy_express")
    subprocess.run(
        ["git", "apply", "-"], cwd=copy, input=diff, check=True, text=True, timeout=WAIT_SECONDS
    )
    installation.environment["PYTHONPATH"] = str(copy)
    with installation.gunicorn(workers=1) as server:
        before = server.request("GET", "/recipients/leela/preferences").json
        update = before | {"timestamp": "2142-03-01T12:00:00Z", f"{name}_preference": True}
        del update["updated_at"]
        unwanted = server.request("POST", "/packages", package(package_type=name))
        after = server.request("PUT", "/recipients/leela/preferences", update)
        wanted = server.request("POST", "/packages", package(package_type=name))
        statistics = server.request("GET", "/statistics").json

    assert before[f"{name}_preference"] is False
    assert (unwanted.status, unwanted.json["status"]) == (201, "dropped")
    assert (after.status, after.json["applied"]) == (200, True)
    assert (wanted.status, wanted.json["status"]) == (201, "delivered")
    assert statistics["by_type"][name] == {"delivered": 1, "dropped": 1}
