"""PgBouncer in front of a PostgreSQL server."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL

from tests.conftest import skip_or_fail
from tests.servers.running import WAIT_SECONDS, free_port, is_listening, wait_until


@contextmanager
def pgbouncer(server: URL, mode: str) -> Iterator[URL]:
    """Run PgBouncer in front of a server.

    :param mode: ``session`` or ``transaction``.
    :returns: the URL of the database through PgBouncer.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        skip_or_fail("PgBouncer isn't installed (Debian: pgbouncer)")
    port = free_port()
    # Not in pytest's folder, which other users can't enter.
    with tempfile.TemporaryDirectory(prefix="galaxy_express_pgbouncer_") as folder:
        users, settings = Path(folder) / "users", Path(folder) / "pgbouncer.ini"
        users.write_text(f'"{server.username}" "{server.password or ""}"\n')
        settings.write_text(
            "[databases]\n"
            f"* = host={server.host} port={server.port or 5432}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\npool_mode = {mode}\n"
            "default_pool_size = 11\n"
        )
        as_root = os.geteuid() == 0  # PgBouncer refuses to run as root
        if as_root:
            for path in (Path(folder), users, settings):
                shutil.chown(path, "nobody")
        process = subprocess.Popen(
            [program, settings],
            user="nobody" if as_root else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: is_listening(port), "PgBouncer listens")
            yield server.set(host="127.0.0.1", port=port)
        finally:
            process.terminate()
            process.wait(WAIT_SECONDS)
