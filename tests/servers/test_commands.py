"""The commands ``baseplate-script``, ``baseplate-shell`` and ``galaxy-express``."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import baseplate.server
import pytest

from galaxy_express.ops import shell
from tests.backends import SQLiteBackend
from tests.servers.running import ROOT, Installation

TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"


def test_scripts_create_and_drop_the_tables(tmp_path: Path) -> None:
    """The scripts of ``make migratedb`` and ``make dropdb`` create and drop the tables."""
    database = SQLiteBackend(tmp_path / "galaxy_express.db")
    installation = Installation(tmp_path, database)

    def script(name: str) -> None:
        installation.run(
            "baseplate-script", "configs/development.ini", f"galaxy_express.models:{name}"
        )

    script("create_schema")
    assert [name for (name,) in database.rows(TABLES)] == [
        "alembic_version",
        "counters",
        "packages",
        "preference_updates",
        "preferences",
    ]
    script("drop_schema")
    assert database.rows(TABLES) == []


def galaxy_express(installation: Installation, *arguments: str, stdin: str = "") -> str:
    """Run the command ``galaxy-express`` with an installation's configuration."""
    return installation.run_python(
        "-m", "galaxy_express.ops.command", *arguments, "--configs=configs", stdin=stdin
    )


def test_galaxy_express_commands(tmp_path: Path) -> None:
    """``galaxy-express`` migrates, audits, backs up and opens a shell, as make does."""
    database = SQLiteBackend(tmp_path / "galaxy_express.db")
    installation = Installation(tmp_path, database)
    assert galaxy_express(installation, "configs") == "configs\n"
    galaxy_express(installation, "migrate")
    assert "No problems found." in galaxy_express(installation, "audit")
    galaxy_express(installation, "backup", "copy.db")
    assert SQLiteBackend(tmp_path / "copy.db").stored() == {}
    assert "galaxies" in galaxy_express(installation, "shell", stdin="print('gala' + 'xies')")


def test_default_configuration_is_found(installation: Installation) -> None:
    """Without ``--configs`` the command uses the configuration files of the checkout."""
    printed = installation.run_python("-m", "galaxy_express.ops.command", "configs")
    assert Path(printed.strip()).samefile(ROOT / "configs")


@pytest.mark.parametrize(
    "arguments",
    [["serve", "--workers=4"], ["migrate", "now"], ["forget", "leela"], ["backup", "a", "b"]],
    ids=" ".join,
)
def test_arguments_without_effect(installation: Installation, arguments: list[str]) -> None:
    """A command exits with a one-line message for arguments that it would ignore."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        galaxy_express(installation, *arguments)
    assert failed.value.returncode == 2
    assert arguments[-1] in failed.value.output.splitlines()[-1]
    assert "Traceback" not in failed.value.output


@pytest.mark.parametrize("command", ["serve", "migrate", "shell"])
def test_missing_configuration(installation: Installation, command: str) -> None:
    """A folder without configuration files is reported in one line, which names the file."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        installation.run_python("-m", "galaxy_express.ops.command", command, "--configs=no/such")
    assert failed.value.returncode == 2
    last = failed.value.output.splitlines()[-1]
    assert last.startswith("galaxy-express: error: there is no no/such/production.ini; ")


COMMANDS = pytest.mark.parametrize(
    "arguments",
    [["--help"], ["configs"], ["migrate"], ["audit"], ["backup", "copy.db"]],
    ids=lambda arguments: arguments[0],
)


def galaxy_express_to(
    stdout: int | IO[bytes], folder: Path, arguments: list[str]
) -> "subprocess.CompletedProcess[str]":
    """Run the command ``galaxy-express``, which prints to a file."""
    installation = Installation(folder, SQLiteBackend(folder / "galaxy_express.db"))
    if arguments != ["migrate"]:
        installation.create_schema()
    return subprocess.run(
        [sys.executable, "-m", "galaxy_express.ops.command", "--configs=configs", *arguments],
        cwd=folder,
        env=installation.environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


@COMMANDS
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_output_without_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], unbuffered: str
) -> None:
    """If the reader of its output has exited, a command ends like one that SIGPIPE ended."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    theirs, ours = os.pipe()
    os.close(theirs)
    with open(ours, "wb") as pipe:
        result = galaxy_express_to(pipe, tmp_path, arguments)
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, "")


@COMMANDS
def test_output_on_a_full_disk(tmp_path: Path, arguments: list[str]) -> None:
    """If its output can't be written, a command fails with a one-line message."""
    with open("/dev/full", "wb") as full:
        result = galaxy_express_to(full, tmp_path, arguments)
    message = "Standard output can't be written: No space left on device\n"
    assert (result.returncode, result.stderr) == (1, message)


def test_argument_of_partition(installation: Installation) -> None:
    """``galaxy-express partition`` passes the number of partitions to the script."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        galaxy_express(installation, "partition", "16")
    assert "this needs PostgreSQL" in failed.value.output


def test_galaxy_express_serve(installation: Installation) -> None:
    """``galaxy-express serve`` runs gunicorn with the given configuration."""
    with installation.command("serve", "--configs=configs") as server:
        assert server.request("GET", "/health").json is True


def test_shell_provides_models_and_a_query(installation: Installation) -> None:
    """The shell provides the models, and the query in its banner works."""
    installation.database.rows(
        "INSERT INTO packages"
        " (package_id, sender_id, recipient_id, package_type, timestamp, status)"
        " VALUES ('pkg-1', 'zap', 'leela', 'personal', 0, 'delivered')"
    )
    banner: dict[str, str] = {}
    shell.setup({"context": None}, banner)
    printed = installation.run("baseplate-shell", "configs/development.ini", stdin=banner["query"])
    assert banner["query"] in printed
    assert "[('delivered', 1)]" in printed


def test_shell_log_is_discarded_if_not_writable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Baseplate's shell log is written to its usual path, or discarded if that isn't writable."""
    env: dict[str, Any] = {"context": None}
    writable, unwritable = tmp_path / "shell.log", tmp_path / "no-such-folder" / "shell.log"

    monkeypatch.setattr(baseplate.server, "_get_shell_log_path", lambda: str(writable))
    shell.setup(env, {})
    assert baseplate.server._get_shell_log_path() == str(writable)  # noqa: SLF001

    monkeypatch.setattr(baseplate.server, "_get_shell_log_path", lambda: str(unwritable))
    shell.setup(env, {})
    assert baseplate.server._get_shell_log_path() == "/dev/null"  # noqa: SLF001
