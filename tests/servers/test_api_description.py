"""The API description, checked against the running service."""

import os
import subprocess
import sys

from tests.servers.http_client import package
from tests.servers.running import COMMANDS, ROOT, Installation


def test_service_conforms_to_its_description(installation: Installation) -> None:
    """Schemathesis, with all checks, finds no undescribed answer, no rejected valid request and no
    accepted invalid one."""
    with installation.gunicorn() as server:
        # So that every path has a resource.
        server.request("POST", "/packages", package(package_id="batch"))
        run = subprocess.run(
            [
                sys.executable,
                COMMANDS / "schemathesis",
                "run",
                f"http://127.0.0.1:{server.port}/openapi.json",
                "--checks=all",
                "--continue-on-failure",
                "--max-examples=25",
                "--generation-deterministic",
                "--suppress-health-check=all",  # speed checks: the machine may be busy
                "--no-color",
            ],
            cwd=installation.folder,
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.servers.schemathesis_hooks"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    assert run.returncode == 0, run.stdout
    assert "No issues found" in run.stdout
