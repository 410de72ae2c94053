"""``GET /dashboard/status``: what the dashboard shows and no other endpoint returns.

The endpoint belongs to the dashboard, like its scripts, and may change with it. It isn't part of
the API, so the API description leaves it out.
"""

from pyramid.config import Configurator
from pyramid.request import Request

from galaxy_express import __version__, metrics
from galaxy_express.storage import queries
from galaxy_express.web.paging import feed_cursor
from galaxy_express.web.responses import JsonResponse, json_response


def read_status(request: Request) -> JsonResponse:
    """Return the state of the service.

    - ``version``: the version of the service.
    - ``queued_packages``: how many packages wait for a commit in this instance; ``null`` if
      unknown.
    - ``database_bytes``: the size of the database on disk.
    - ``feed``: the ``after`` of ``GET /packages?order=asc`` for the decisions from now on.
    """
    with request.database.read_connection() as connection:
        request.desk.confirm(connection)
        position = queries.find_feed_position(connection)
        size = connection.read_size()
    return json_response(
        {
            "version": __version__,
            "queued_packages": metrics.count_queued(),
            "database_bytes": size,
            "feed": feed_cursor(position),
        }
    )


def includeme(config: Configurator) -> None:
    """Add the endpoint to the application."""
    config.add_resource("/dashboard/status", {"GET": read_status})
