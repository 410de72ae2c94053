"""The SQL statements for SQLite."""

from galaxy_express.storage.database import Pages, Statements

# Queries for many keys return all rows as one value, since each row would release the GIL and
# have to win it back. Statements that write many rows leave out those of NULL values, so that the
# same statement can write fewer.
STATEMENTS = Statements(
    find_decision="""
        SELECT package_id, sender_id, recipient_id, package_type, timestamp, status,
               decided_at, declined_at
        FROM packages WHERE package_id = ?
    """,
    find_decisions="""
        SELECT json_group_array(json_array(
            package_id, sender_id, recipient_id, package_type, timestamp, status,
            decided_at, declined_at))
        FROM packages WHERE package_id IN (SELECT value FROM json_each(?))
    """,
    find_preferences="""
        SELECT json_group_array(json_array(recipient_id, package_type, wanted, timestamp))
        FROM preferences WHERE recipient_id IN (SELECT value FROM json_each(?))
    """,
    # A violated constraint is a bug, and rolls the transaction back. To undo only the statement,
    # which is the default, SQLite would write a journal.
    insert_packages="""
        INSERT OR ROLLBACK INTO packages
            (sequence, package_id, sender_id, recipient_id, package_type, timestamp, status,
             decided_at, declined_at)
        SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
        ON CONFLICT (package_id) DO NOTHING
    """,
    insert_updates="""
        INSERT INTO preference_updates
            (sequence, recipient_id, timestamp, received_at, wanted, applied)
        SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
    """,
    # The condition is that of Preference.supersedes.
    upsert_preferences="""
        INSERT INTO preferences (recipient_id, package_type, wanted, timestamp)
        SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
        ON CONFLICT (recipient_id, package_type) DO UPDATE
        SET wanted = excluded.wanted, timestamp = excluded.timestamp
        WHERE excluded.timestamp > preferences.timestamp
           OR excluded.timestamp = preferences.timestamp
              AND preferences.wanted AND NOT excluded.wanted
    """,
    upsert_counters="""
        INSERT INTO counters (shard, outcome, package_type, value)
        SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL
        ON CONFLICT (shard, outcome, package_type) DO UPDATE
        SET value = counters.value + excluded.value
    """,
    delete_preferences="DELETE FROM preferences WHERE recipient_id = ?",
    delete_updates="DELETE FROM preference_updates WHERE recipient_id = ?",
    page_of_all=Pages(
        ascending="""
            SELECT sequence, package_id, sender_id, recipient_id, package_type, timestamp,
                   status, decided_at, declined_at
            FROM packages WHERE sequence > :after AND sequence <= :settled
            ORDER BY sequence LIMIT :limit
        """,
        descending="""
            SELECT sequence, package_id, sender_id, recipient_id, package_type, timestamp,
                   status, decided_at, declined_at
            FROM packages WHERE sequence < :after
            ORDER BY sequence DESC LIMIT :limit
        """,
    ),
    page_of_recipient=Pages(
        ascending="""
            SELECT sequence, package_id, sender_id, recipient_id, package_type, timestamp,
                   status, decided_at, declined_at
            FROM packages
            WHERE recipient_id = :recipient_id AND sequence > :after AND sequence <= :settled
            ORDER BY sequence LIMIT :limit
        """,
        descending="""
            SELECT sequence, package_id, sender_id, recipient_id, package_type, timestamp,
                   status, decided_at, declined_at
            FROM packages WHERE recipient_id = :recipient_id AND sequence < :after
            ORDER BY sequence DESC LIMIT :limit
        """,
    ),
    page_of_updates=Pages(
        ascending="""
            SELECT sequence, recipient_id, timestamp, received_at, wanted, applied
            FROM preference_updates
            WHERE recipient_id = :recipient_id AND sequence > :after AND sequence <= :settled
            ORDER BY sequence LIMIT :limit
        """,
        descending="""
            SELECT sequence, recipient_id, timestamp, received_at, wanted, applied
            FROM preference_updates WHERE recipient_id = :recipient_id AND sequence < :after
            ORDER BY sequence DESC LIMIT :limit
        """,
    ),
)
