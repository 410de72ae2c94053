"""The wheel is complete, and its dependencies are pinned."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.backends import SQLiteBackend
from tests.servers.http_client import exchange, head, package
from tests.servers.running import ROOT, WAIT_SECONDS, Installation, Server, free_port

DISTRIBUTION = "galaxy_express"


def run(
    *command: str | Path, folder: Path = ROOT, environment: dict[str, str] | None = None
) -> str:
    """Run a command, which must succeed, and return its output."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=2 * WAIT_SECONDS,
    ).stdout


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site-packages of an environment with the wheel, built from a clean copy of the checkout;
    dependencies come from the test environment."""
    if not shutil.which("git"):
        pytest.skip("git isn't installed")
    folder = tmp_path_factory.mktemp("packaging")
    for path in _files_of_checkout():
        copy = folder / "checkout" / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, copy)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    offline = ("--no-deps", "--no-index")
    build = ("--no-build-isolation", "--wheel-dir", folder, folder / "checkout")
    run(*pip, "wheel", *offline, *build)
    (wheel,) = folder.glob("*.whl")

    venv.create(folder / "venv", with_pip=False)
    paths = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    site_packages = Path(sysconfig.get_path("purelib", "venv", paths))
    run(*pip, "install", *offline, "--target", site_packages, wheel)
    (site_packages / "lent.pth").write_text(sysconfig.get_path("purelib"))
    return site_packages


def _files_of_checkout() -> Iterator[Path]:
    git = ("git", "-c", f"safe.directory={ROOT}", "ls-files", "-z")
    for name in run(*git, "--cached", "--others", "--exclude-standard").split("\0"):
        if name and (ROOT / name).is_file():
            yield Path(name)


def test_service_starts_from_the_wheel(site_packages: Path, tmp_path: Path) -> None:
    """Installed from its wheel and started by its command in an empty folder, the service works and
    serves its pages."""
    installation = Installation(tmp_path, SQLiteBackend(tmp_path / "galaxy_express.db"))
    del installation.environment["PYTHONPATH"]
    port = free_port()
    environment = installation.environment | {
        "GALAXY_EXPRESS_BIND": f"127.0.0.1:{port}",
        "GALAXY_EXPRESS_METRICS_BIND": str(free_port()),
    }
    python = str(site_packages.parents[2] / "bin" / "python")

    where = "import galaxy_express; print(galaxy_express.__path__[0])"
    imported = run(python, "-c", where, folder=tmp_path, environment=environment)
    assert Path(imported.strip()) == site_packages / DISTRIBUTION

    command = [python, "-m", "galaxy_express.ops.command"]
    configs = run(*command, "configs", folder=tmp_path, environment=environment).strip()
    assert Path(configs) == site_packages / DISTRIBUTION / "configs"
    run(*command, "migrate", folder=tmp_path, environment=environment)
    with Server([*command, "serve"], tmp_path, port, environment) as server:
        assert server.request("POST", "/packages", package()).status == 201
        assert "No problems found." in run(
            *command, "audit", folder=tmp_path, environment=environment
        )
        browser = head("GET / HTTP/1.1", "Accept: text/html")
        (home,) = exchange(port, [browser])
        docs = server.request("GET", "/docs")
        static = {
            name: server.request("GET", f"/static/{name}")
            for name in ("dashboard.js", "docs.js", "swagger-ui-bundle.js")
        }
    assert b"<html" in home.body
    assert b"<html" in docs.body
    assert {answer.status for answer in static.values()} == {200}


def pins() -> dict[str, Version]:
    """The versions that ``requirements.txt`` pins for this Python, by package."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    requirements = [Requirement(line.removesuffix("\\")) for line in lines if line[0] != " "]
    return {
        canonicalize_name(requirement.name): Version(str(requirement.specifier)[2:])
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate()
    }


def test_requirements_pin_all_dependencies(site_packages: Path) -> None:
    """All direct and transitive dependencies are pinned to suitable versions."""
    (distribution,) = metadata.distributions(name=DISTRIBUTION, path=[str(site_packages)])
    pinned = pins()
    needs = [(Requirement(line), "") for line in distribution.requires or ()]
    assert needs
    seen = set()
    while needs:
        need, extra = needs.pop()
        if need.marker is not None and not need.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(need.name)
        if name == "posix-ipc":  # has no wheel for the newest Pythons, and is never imported
            continue
        assert name in pinned, f"{need} is needed, and requirements.txt doesn't pin it"
        assert need.specifier.contains(pinned[name], prereleases=True), str(need)
        for wanted in ("", *need.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                needs += [(Requirement(line), wanted) for line in metadata.requires(name) or ()]
