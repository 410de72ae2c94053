"""The limit of open files (``ulimit -n``): each connection is an open file."""

import resource

# The open files that a worker needs for everything else, such as the database and metrics.
RESERVED = 100


def allowed_connections(wanted: int) -> int:
    """Return how many connections a worker can have open, at most as many as are wanted.

    The limit of this process, which its workers inherit, is raised if necessary and possible.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    needed = wanted + RESERVED
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, soft - RESERVED)
