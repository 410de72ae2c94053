"""The SQL statements for PostgreSQL."""

from galaxy_express.storage.database import Pages, Statements

# One array per column, so that a statement is the same for any number of rows.
STATEMENTS = Statements(
    find_decision="""
        SELECT package_id, sender_id, recipient_id, package_type, timestamp, status,
               decided_at, declined_at
        FROM packages WHERE package_id = %s
    """,
    find_decisions="""
        SELECT package_id, sender_id, recipient_id, package_type, timestamp, status,
               decided_at, declined_at
        FROM packages WHERE package_id = ANY(%s::text[])
    """,
    find_preferences="""
        SELECT recipient_id, package_type, wanted, timestamp
        FROM preferences WHERE recipient_id = ANY(%s::text[])
    """,
    insert_packages="""
        INSERT INTO packages
            (package_id, sender_id, recipient_id, package_type, timestamp, status,
             decided_at, declined_at, sequence)
        SELECT * FROM unnest(
            %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[],
            %s::bigint[], %s::bigint[], %s::bigint[]
        )
        ON CONFLICT (package_id) DO NOTHING
        RETURNING package_id, sender_id, recipient_id, package_type, timestamp, status,
                  decided_at, declined_at, sequence
    """,
    insert_updates="""
        INSERT INTO preference_updates
            (recipient_id, timestamp, received_at, wanted, applied, sequence)
        SELECT * FROM unnest(
            %s::text[], %s::bigint[], %s::bigint[], %s::text[], %s::boolean[], %s::bigint[]
        )
        RETURNING sequence
    """,
    # The condition is that of Preference.supersedes.
    upsert_preferences="""
        INSERT INTO preferences (recipient_id, package_type, wanted, timestamp)
        SELECT * FROM unnest(%s::text[], %s::text[], %s::boolean[], %s::bigint[])
        ON CONFLICT (recipient_id, package_type) DO UPDATE
        SET wanted = excluded.wanted, timestamp = excluded.timestamp
        WHERE excluded.timestamp > preferences.timestamp
           OR excluded.timestamp = preferences.timestamp
              AND preferences.wanted AND NOT excluded.wanted
        RETURNING recipient_id
    """,
    upsert_counters="""
        INSERT INTO counters (shard, outcome, package_type, value)
        SELECT * FROM unnest(%s::smallint[], %s::text[], %s::text[], %s::bigint[])
        ON CONFLICT (shard, outcome, package_type) DO UPDATE
        SET value = counters.value + excluded.value
        RETURNING shard
    """,
    delete_preferences="DELETE FROM preferences WHERE recipient_id = %s",
    delete_updates="DELETE FROM preference_updates WHERE recipient_id = %s",
    page_of_all=Pages(
        ascending="""
            SELECT sequence, package_id, sender_id, recipient_id, package_type, timestamp,
                   status, decided_at, declined_at
            FROM packages WHERE sequence > %(after)s AND sequence <= %(settled)s
            ORDER BY sequence LIMIT %(limit)s
        """,
        descending="""
            SELECT sequence, package_id, sender_id, recipient_id, package_type, timestamp,
                   status, decided_at, declined_at
            FROM packages WHERE sequence < %(after)s
            ORDER BY sequence DESC LIMIT %(limit)s
        """,
    ),
    # The recipient is part of the order, so that only the index on both columns can be used. With
    # an equality the planner might read the index on the sequence instead, and filter.
    page_of_recipient=Pages(
        ascending="""
            SELECT sequence, package_id, sender_id, recipient_id, package_type, timestamp,
                   status, decided_at, declined_at
            FROM packages
            WHERE (recipient_id, sequence) > (%(recipient_id)s, %(after)s)
              AND (recipient_id, sequence) <= (%(recipient_id)s, %(settled)s)
            ORDER BY packages.recipient_id, sequence LIMIT %(limit)s
        """,
        descending="""
            SELECT sequence, package_id, sender_id, recipient_id, package_type, timestamp,
                   status, decided_at, declined_at
            FROM packages
            WHERE (recipient_id, sequence) < (%(recipient_id)s, %(after)s)
              AND (recipient_id, sequence) >= (%(recipient_id)s, 0)
            ORDER BY packages.recipient_id DESC, sequence DESC LIMIT %(limit)s
        """,
    ),
    page_of_updates=Pages(
        ascending="""
            SELECT sequence, recipient_id, timestamp, received_at, wanted, applied
            FROM preference_updates
            WHERE recipient_id = %(recipient_id)s
              AND sequence > %(after)s AND sequence <= %(settled)s
            ORDER BY sequence LIMIT %(limit)s
        """,
        descending="""
            SELECT sequence, recipient_id, timestamp, received_at, wanted, applied
            FROM preference_updates
            WHERE recipient_id = %(recipient_id)s AND sequence < %(after)s
            ORDER BY sequence DESC LIMIT %(limit)s
        """,
    ),
)
