"""Revisions of this repository that can be served: the current one and others."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

from benchmarks.settings import ROOT


@dataclass(frozen=True)
class Revision:
    """The files of a revision, and an environment with its requirements.

    :param name: the name given on the command line.
    :param root: the folder of the Makefile.
    :param python: the interpreter of the virtual environment.
    """

    name: str
    root: Path
    python: Path

    def create_tables(self, database_url: str) -> None:
        """Create the revision's tables in an empty database."""
        # The environment has the requirements, so make must not install anything.
        self.make("--old-file=install", "migratedb", database_url=database_url)

    def make(self, *arguments: str, database_url: str = "") -> None:
        """Run ``make`` in the revision's folder.

        :raises SystemExit: with its output, if it fails.
        """
        # Without the variables that a calling make passes to other makes.
        environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
        environment["GALAXY_EXPRESS_DATABASE_URL"] = database_url
        process = subprocess.run(
            ["make", *arguments, f"VENV={self.python.parents[1]}", f"PYTHON={sys.executable}"],
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if process.returncode:
            sys.exit(f"make {' '.join(arguments)} failed in {self.name}:\n{process.stdout}")


PRESENT = Revision("present", ROOT, Path(sys.executable))


@contextmanager
def checked_out(name: str, folder: Path) -> Iterator[Revision]:
    """The files of another revision in a temporary folder.

    It shares this program's virtual environment if that meets the revision's requirements;
    otherwise it gets its own.

    :param name: anything that git accepts as a revision.
    :param folder: the parent of the temporary folder.
    :raises SystemExit: if git has no such revision.
    """
    archive = subprocess.run(
        ["git", "archive", "--format=tar", name], cwd=ROOT, stdout=subprocess.PIPE
    )
    if archive.returncode:
        sys.exit(f"git has no revision {name}.")
    with TemporaryDirectory(prefix="bench-", dir=folder.resolve()) as root:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(root, filter="data")
        missing = unmet_requirements((Path(root) / "requirements.txt").read_text())
        if not missing:
            yield Revision(name, Path(root), PRESENT.python)
            return
        print(f"Installing what {name} requires ({', '.join(missing)}) ...", file=sys.stderr)
        revision = Revision(name, Path(root), Path(root) / ".venv/bin/python")
        revision.make("install")
        yield revision


def unmet_requirements(requirements: str) -> list[str]:
    """The requirements in a file that the environment of this program doesn't meet."""
    # What follows a backslash is an option, such as a hash.
    lines = (line.partition("\\")[0].strip() for line in requirements.splitlines())
    parsed = [Requirement(line) for line in lines if line and line[0] not in "#-"]
    return [str(requirement) for requirement in parsed if not _is_met(requirement)]


def _is_met(requirement: Requirement) -> bool:
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)
