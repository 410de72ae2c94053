"""The commands ``baseplate-script``, ``baseplate-shell`` and ``galaxy-express``."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import baseplate.server
import pytest

from galaxy_express.ops import shell
from tests.backends import SQLiteBackend
from tests.servers.running import ROOT, WAIT_SECONDS, Installation, wait_until

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
        "-m", "galaxy_express.ops.command", "--configs=configs", *arguments, stdin=stdin
    )


def test_galaxy_express_commands(tmp_path: Path) -> None:
    """``galaxy-express`` migrates, audits, backs up, forgets and opens a shell, as make does."""
    database = SQLiteBackend(tmp_path / "galaxy_express.db")
    installation = Installation(tmp_path, database)
    assert galaxy_express(installation, "configs") == "configs\n"
    galaxy_express(installation, "migrate")
    assert "No problems found." in galaxy_express(installation, "audit")
    galaxy_express(installation, "backup", "copy.db")
    assert SQLiteBackend(tmp_path / "copy.db").stored() == {}
    database.rows("INSERT INTO preferences VALUES ('--leela', 'personal', 0, 0)")
    assert "personal: declined" in galaxy_express(installation, "forget", "--", "--leela")
    assert "galaxies" in galaxy_express(installation, "shell", stdin="print('gala' + 'xies')")


def test_default_configuration_is_found(installation: Installation) -> None:
    """Without ``--configs`` the command uses the configuration files of the checkout."""
    printed = installation.run_python("-m", "galaxy_express.ops.command", "configs")
    assert Path(printed.strip()).samefile(ROOT / "configs")


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--workers=4"],
        ["migrate", "now"],
        ["forget", "leela", "fry"],
        ["backup", "a", "b"],
    ],
    ids=" ".join,
)
def test_arguments_without_effect(installation: Installation, arguments: list[str]) -> None:
    """A command exits with a one-line message for arguments that it would ignore."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        galaxy_express(installation, *arguments)
    assert failed.value.returncode == 2
    assert arguments[-1] in failed.value.output.splitlines()[-1]
    assert "Traceback" not in failed.value.output


@pytest.mark.parametrize("command", ["serve", "migrate", "shell", "configs"])
def test_missing_configuration(installation: Installation, command: str) -> None:
    """A folder without configuration files is reported in one line, which names the file."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        installation.run_python("-m", "galaxy_express.ops.command", command, "--configs=no/such")
    assert failed.value.returncode == 2
    last = failed.value.output.splitlines()[-1]
    message = "galaxy-express: error: no/such/production.ini: No such file or directory; "
    assert last.startswith(message)


def failure(installation: Installation, *arguments: str, stdin: str = "") -> str:
    """Run the command ``galaxy-express``, which must fail, and return its output."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        galaxy_express(installation, *arguments, stdin=stdin)
    output: str = failed.value.output
    assert "Traceback" not in output
    return output


def test_unusable_configuration_folder(installation: Installation) -> None:
    """A folder that can't be examined is reported in one line, with the reason."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        installation.run_python(
            "-m", "galaxy_express.ops.command", "audit", f"--configs={'x' * 256}"
        )
    assert "/production.ini: File name too long; " in failed.value.output.splitlines()[-1]


@pytest.mark.parametrize("command", ["audit", "shell"])
@pytest.mark.parametrize("content", [b"[app:mian]", b"\xff", b"factory"])
def test_malformed_configuration(installation: Installation, command: str, content: bytes) -> None:
    """A malformed configuration file is reported in one line, which names it."""
    path = installation.folder / "configs" / "production.ini"
    path.write_bytes(content)
    output = failure(installation, command)
    assert output.startswith("The configuration file configs/production.ini can't be read: ")
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("wsgi:make_app", "nope", "[app:main] factory: there is no module galaxy_express"),
        ("factory = galaxy", "# galaxy", "[app:main] factory: is missing"),
        ("shell:setup", "shell:nope", "[shell] setup: galaxy_express.ops.shell has no function"),
        ("shell:setup", "shell", "[shell] setup: must be like module:function, not "),
    ],
)
def test_wrong_setup_of_the_shell(
    installation: Installation, old: str, new: str, message: str
) -> None:
    """A function that the shell needs and that doesn't exist is reported in one line."""
    path = installation.folder / "configs" / "production.ini"
    path.write_text(path.read_text().replace(old, new))
    output = failure(installation, "shell")
    assert output.startswith(message)
    assert output.count("\n") == 1


def test_shell_without_a_database(tmp_path: Path) -> None:
    """If the database is unavailable, a query in the shell fails with a one-line message."""
    installation = Installation(tmp_path, SQLiteBackend(tmp_path / "galaxy_express.db"))
    statements = "query(select(models.packages))\nprint('gala' + 'xies')\n1 / 0"
    printed = galaxy_express(installation, "shell", stdin=statements)
    assert "The database is unavailable: there is no file " in printed
    assert "galaxies" in printed
    assert "SchemaMismatch" not in printed
    assert "ZeroDivisionError" in printed


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """The names of files may be any bytes."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    installation = Installation(folder, SQLiteBackend(folder / "galaxy_express.db"))
    galaxy_express(installation, "migrate")
    copy = os.fsdecode(b"copy-\xfe.db")
    assert "copy-\\udcfe.db" in galaxy_express(installation, "backup", copy)
    assert SQLiteBackend(folder / copy).stored() == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("command", ["migrate", "audit", "backup"])
def test_signals_end_a_command(
    installation: Installation, command: str, number: signal.Signals
) -> None:
    """A signal ends a command without a traceback, and a backup leaves nothing behind."""
    path = installation.folder / "galaxy_express.db"
    arguments = [command, *(["copy.db"] if command == "backup" else [])]
    with installation.database.cursor() as cursor:
        cursor.execute("PRAGMA locking_mode = EXCLUSIVE")
        cursor.execute("BEGIN EXCLUSIVE")  # the command waits for this lock
        process = subprocess.Popen(
            [sys.executable, "-m", "galaxy_express.ops.command", "--configs=configs", *arguments],
            cwd=installation.folder,
            env=installation.environment,
            stderr=subprocess.PIPE,
            text=True,
            # Background processes ignore SIGINT, and the command would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        wait_until(lambda: path in open_files(process.pid), "the command has opened the database")
        process.send_signal(number)
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode in (-number, 128 + number)
    assert errors == ""
    assert not list(installation.folder.glob("copy.db*"))


def open_files(pid: int) -> set[Path]:
    """The paths of the files that a process has open."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(link.readlink())
    return found


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
