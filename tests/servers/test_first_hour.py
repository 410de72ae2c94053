"""A newcomer's first commands, and the one-line errors for missing or invalid things."""

import filecmp
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.running import COMMANDS, ROOT, WAIT_SECONDS, free_port

# Relative, since make can't handle a path with a space.
VENV = os.path.relpath(sys.prefix, ROOT)
MAKEFILE = (ROOT / "Makefile").read_text()


def make(folder: Path, *arguments: str, path: str = os.environ["PATH"]) -> tuple[int, str, str]:
    """Run ``make`` in the checkout with a newcomer's minimal environment.

    :param folder: the folder for its files.
    :returns: the exit code, standard output, and standard error without the error lines
        of ``make`` itself.
    """
    process = subprocess.Popen(
        ["make", *arguments],
        cwd=ROOT,
        env={
            "PATH": path,
            "HOME": str(folder),
            "GALAXY_EXPRESS_DATABASE_URL": f"sqlite:///{folder}/galaxy_express.db",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    errors = re.sub(r"^make: \*\*\* .*\n", "", errors, flags=re.MULTILINE)
    return process.returncode, output, errors


pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make isn't installed")


def test_help_lists_every_command(tmp_path: Path) -> None:
    """``make`` and ``make help`` list each target that the Makefile describes, one per line."""
    described = re.findall(r"^([\w-]+):.*## (.+)$", MAKEFILE, re.MULTILINE)
    assert len(described) > 10
    code, output, _ = make(tmp_path, "help")
    assert code == 0
    listed = [line.split(maxsplit=2) for line in output.splitlines()]
    assert listed == [["make", name, description] for name, description in described]
    assert make(tmp_path) == (0, output, "")


def test_every_target_is_phony() -> None:
    """No file in the checkout can shadow a target."""
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    targets = set(re.findall(r"^([a-z][\w-]*):(?!=)", MAKEFILE, re.MULTILINE))
    assert targets == set(phony.split())


def skip_unless_set_up() -> None:
    """Skip the test if ``make`` would first install packages."""
    copy = Path(sys.prefix) / "requirements.txt"
    if not (copy.exists() and filecmp.cmp(ROOT / "requirements.txt", copy, shallow=False)):
        pytest.skip("make has not set up the environment of the tests")


@pytest.mark.parametrize("command", ["run", "serve"])
def test_port_in_use(tmp_path: Path, command: str) -> None:
    """If the port is in use, the server doesn't start."""
    skip_unless_set_up()
    with socket.create_server(("127.0.0.1", 0)) as other:
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        code, _, errors = make(tmp_path, command, f"BIND={bind}", f"VENV={VENV}")
    assert code != 0
    assert errors == (
        f"Can't listen on {bind}: another program is listening there;"
        " stop it, or choose another port (BIND=127.0.0.1:9191)\n"
    )
    assert not list(tmp_path.iterdir()), "no tables are created"


def test_free_port(tmp_path: Path) -> None:
    """If the port is free, the check succeeds silently."""
    skip_unless_set_up()
    bind = f"BIND=127.0.0.1:{free_port()}"
    assert make(tmp_path, "check-port", bind, f"VENV={VENV}") == (0, "", "")


def test_names_are_quoted(tmp_path: Path) -> None:
    """Names given to ``make`` may have any characters; a dollar sign is doubled, as always."""
    name = """it's "a" `b` $(c) $d e\\f;g& # *"""
    skip_unless_set_up()
    config = tmp_path / f"{name}.ini"
    shutil.copy(ROOT / "configs" / "development.ini", config)
    copy = tmp_path / f"{name}.db"
    variables = {"CONFIG": config, "TO": copy, "VENV": VENV}
    given = [f"{variable}={value}".replace("$", "$$") for variable, value in variables.items()]
    assert make(tmp_path, "migratedb", *given)[::2] == (0, "")
    assert make(tmp_path, "backupdb", *given)[::2] == (0, "")
    assert copy.exists()
    code, _, errors = make(
        tmp_path, "check-port", f"VENV={VENV}", f"BIND={name}".replace("$", "$$")
    )
    assert (code, errors.partition(" is not an address")[0]) == (2, repr(name))
    code, _, errors = make(tmp_path, "partitiondb", *given, f"PARTITIONS={name}".replace("$", "$$"))
    assert (code, errors.count("The number of partitions must be")) == (2, 1)


def test_python_in_a_folder_with_a_quote(tmp_path: Path) -> None:
    """The path of the Python to use may have spaces and quotes."""
    python, venv = tmp_path / "fry's own python", tmp_path / "venv"
    python.symlink_to(os.path.realpath(sys.executable))
    code, output, errors = make(tmp_path, f"{venv}/bin/python", f"VENV={venv}", f"PYTHON={python}")
    assert (code, errors) == (0, "")
    assert f"with {python} ..." in output


@pytest.mark.parametrize("which", ["none given", "an old one given", "only old ones found"])
def test_no_suitable_python(tmp_path: Path, which: str) -> None:
    """Without a recent enough Python nothing is created, and the error says which version is
    needed."""
    old = tmp_path / "old"
    old.mkdir()
    (names,) = re.findall(r"for python in ([^;]+);", MAKEFILE)
    for name in names.split():
        # A stand-in for an old Python: it fails the version check, and creates environments.
        (old / name).write_text('#!/bin/sh\n[ "$1" = -m ] && mkdir -p "$3"\n')
        (old / name).chmod(0o755)
    named = {
        "none given": ["PYTHON="],
        "an old one given": [f"PYTHON={old / 'python3'}"],
        "only old ones found": [],
    }[which]
    venv = tmp_path / "venv"
    path = f"{old}:{os.environ['PATH']}"
    code, _, errors = make(tmp_path, "install", f"VENV={venv}", *named, path=path)
    assert code != 0
    assert re.fullmatch(r"Python 3\.11 or newer is needed.*\n", errors)
    assert not venv.exists()


def test_environment_with_a_removed_python_is_recreated(tmp_path: Path) -> None:
    """If the environment's Python was removed, by a system upgrade for example, it is recreated."""
    python, venv = tmp_path / "python3.11", tmp_path / "venv"
    command = [f"{venv}/bin/python", f"VENV={venv}"]
    installed = os.path.realpath(sys.executable)  # the path of the checkout may have a space
    python.symlink_to(installed)
    assert make(tmp_path, *command, f"PYTHON={python}")[::2] == (0, "")
    python.unlink()
    (venv / "requirements.txt").touch()
    assert make(tmp_path, *command, f"PYTHON={installed}")[::2] == (0, "")
    subprocess.run([venv / "bin" / "python", "-c", "pass"], check=True, timeout=WAIT_SECONDS)
    assert not (venv / "requirements.txt").exists(), "the requirements would not be reinstalled"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (None, r"database.url: .*GALAXY_EXPRESS_DATABASE_URL is not set"),
        ("galaxy_express.db", "database.url: must be a URL"),
        ("mysql://127.0.0.1/galaxy", "database.url: .* not mysql"),
        ("postgresql+asyncpg://127.0.0.1/galaxy", "database.url: .*asyncpg"),
        ("postgresql://127.0.0.1:1/galaxy", "postgresql://127.0.0.1:1/galaxy is unavailable: "),
        ("sqlite:///no/such/folder.db", "no/such/folder.db is unavailable: .*folder"),
        ("sqlite:////proc/galaxy.db", "/proc/galaxy.db is unavailable: .*folder"),
    ],
    ids=[
        "unset variable",
        "no URL",
        "unknown database",
        "unknown driver",
        "no server",
        "no folder",
        "folder that can't be written to",
    ],
)
def test_no_usable_database(tmp_path: Path, url: str | None, error: str) -> None:
    """If tables can't be created, the last line says why, without a traceback."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore:pkg_resources is deprecated:UserWarning",
    }
    if url is not None:
        environment["GALAXY_EXPRESS_DATABASE_URL"] = url
    ended = subprocess.run(
        [
            sys.executable,
            COMMANDS / "baseplate-script",
            "configs/development.ini",
            "galaxy_express.models:create_schema",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert re.search(error, ended.stderr.splitlines()[-1])
