"""Deletes the preferences of one recipient; a command for operators.

An update with a timestamp in the far future would win over all later ones. After it is
deleted, the recipient has the defaults again, and the next update is applied.
"""

import os

from baseplate.lib.config import RawConfig

from galaxy_express.ops.output import write
from galaxy_express.ops.schema import database_for_script
from galaxy_express.storage import queries


def forget_recipient(app_config: RawConfig) -> None:
    """Delete the preferences of ``$RECIPIENT`` (a script for ``baseplate-script``), and print
    what they were. Decisions are unchanged.

    :raises SystemExit: with a one-line message, if there is no such recipient, a setting is
        invalid, or the database is unavailable.
    """
    recipient_id = os.environ.get("RECIPIENT", "")
    if not recipient_id:
        raise SystemExit(
            "The recipient is missing: make forgetrecipient RECIPIENT=leela,"
            " or galaxy-express forget leela"
        )
    try:
        recipient_id.encode()
    except UnicodeEncodeError:
        raise SystemExit(f"RECIPIENT is {recipient_id!r}, which is not UTF-8.") from None
    with (
        database_for_script(app_config) as database,
        database.transaction(names=[recipient_id]) as connection,
    ):
        preferences = queries.find_preferences(connection, [recipient_id])[recipient_id]
        queries.delete_preferences(connection, recipient_id)
    if not preferences:
        raise SystemExit(f"Recipient {recipient_id!r} has no preferences; nothing was changed.")
    lines = [f"Deleted the preferences of recipient {recipient_id!r}, which were:"]
    for package_type, preference in sorted(preferences.items()):
        wanted = "wanted" if preference.wanted else "declined"
        lines.append(f"  {package_type}: {wanted} since {preference.timestamp.isoformat()}")
    write("\n".join([*lines, ""]))
