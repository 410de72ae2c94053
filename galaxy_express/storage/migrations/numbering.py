"""The sequence numbers of the feed and of the history on PostgreSQL."""

from sqlalchemy.engine import Connection

#: Creates the function that draws the numbers.
DRAW = """
CREATE OR REPLACE FUNCTION galaxy_express_draw(number integer) RETURNS bigint[]
LANGUAGE plpgsql AS $$
-- Draws sequence numbers. Until the transaction ends it holds a shared lock, whose key is less
-- than all of them: it shows readers which numbers are not committed yet.
DECLARE
    last bigint;
    now bigint := extract(epoch FROM clock_timestamp()) * 1000000;
BEGIN
    IF coalesce(current_setting('galaxy_express.drawing', true), '') = '' THEN
        SELECT last_value INTO last FROM galaxy_express_sequence;
        PERFORM pg_advisory_xact_lock_shared(last);
        PERFORM set_config('galaxy_express.drawing', 'yes', true);
        -- The numbers follow the clock. Otherwise, after an older backup was restored, numbers
        -- that clients have already read would be used again.
        IF now - last > 1000000 THEN
            -- Others wait: otherwise they would draw numbers from before the sequence is set. The
            -- lock is released when this block is rolled back. The sequence keeps its value.
            BEGIN
                PERFORM set_config('lock_timeout', '1s', true);
                PERFORM pg_advisory_xact_lock(2, 0);
                SELECT last_value INTO last FROM galaxy_express_sequence;
                IF now - last > 1000000 THEN
                    PERFORM setval('galaxy_express_sequence', now);
                END IF;
                RAISE SQLSTATE 'GX000';
            EXCEPTION WHEN SQLSTATE 'GX000' OR lock_not_available THEN
                NULL;  -- if the process with the lock is frozen, continue
            END;
        END IF;
    END IF;
    RETURN ARRAY(SELECT nextval('galaxy_express_sequence') FROM generate_series(1, number));
END
$$
"""

#: Creates the function with which a transaction begins that decides or updates.
BEGIN = """
CREATE OR REPLACE FUNCTION galaxy_express_begin(number integer) RETURNS bigint[]
LANGUAGE plpgsql AS $$
-- Returns the time, in microseconds since 1970, followed by as many sequence numbers as requested.
-- No transaction with larger numbers gets an earlier time, since no other call of this function
-- draws numbers between the two steps.
DECLARE
    last bigint;
    numbers bigint[];
    now timestamptz;
BEGIN
    -- As in galaxy_express_draw, which also makes the numbers follow the clock.
    SELECT last_value INTO last FROM galaxy_express_sequence;
    PERFORM pg_advisory_xact_lock_shared(last);
    IF extract(epoch FROM clock_timestamp()) * 1000000 - last > 1000000 THEN
        PERFORM galaxy_express_draw(0);
    END IF;
    -- This lock is only held for a moment, since the end of the transaction may be far: it is
    -- released when the block is rolled back. The variables and the sequence keep their values.
    BEGIN
        IF NOT pg_try_advisory_xact_lock(4, 0) THEN
            BEGIN
                PERFORM set_config('lock_timeout', '1s', true);
                PERFORM pg_advisory_xact_lock(4, 0);
            EXCEPTION WHEN lock_not_available THEN
                NULL;  -- the server is overloaded, or the process with the lock is frozen: go on
            END;
        END IF;
        FOR place IN 1 .. number LOOP
            numbers := numbers || nextval('galaxy_express_sequence');
        END LOOP;
        now := clock_timestamp();
        RAISE SQLSTATE 'GX000';
    EXCEPTION WHEN SQLSTATE 'GX000' THEN
        NULL;
    END;
    RETURN (extract(epoch FROM now) * 1000000)::bigint || numbers;
END
$$
"""

_FUNCTIONS = {"galaxy_express_draw(integer)": DRAW, "galaxy_express_begin(integer)": BEGIN}
_STORED = "SELECT prosrc FROM pg_proc WHERE oid = to_regprocedure(%s)"
_IS_MISSING = "SELECT to_regclass('galaxy_express_sequence') IS NULL"
# The numbers of clients' cursors are those of rows.
_CONTINUE = """
SELECT setval('galaxy_express_sequence', greatest(
    extract(epoch FROM clock_timestamp()) * 1000000,
    (SELECT max(sequence) FROM packages),
    (SELECT max(sequence) FROM preference_updates))::bigint)
"""
_WITHOUT_DEFAULT = """
SELECT attrelid::regclass FROM pg_attribute
WHERE attrelid IN ('packages'::regclass, 'preference_updates'::regclass)
  AND attname = 'sequence' AND NOT atthasdef
"""


def restore_functions(connection: Connection) -> None:
    """Recreate the functions that draw the numbers, if they are missing or were altered."""
    run = connection.exec_driver_sql
    for name, create in _FUNCTIONS.items():
        stored = run(_STORED, (name,)).scalar()
        _, body, _ = create.split("$$")
        if stored != body:
            run(create)


def restore_sequence(connection: Connection) -> None:
    """Recreate the sequence and the defaults of the tables, if they are missing.

    All new numbers are larger than those of stored rows.
    """
    run = connection.exec_driver_sql
    run("SET LOCAL lock_timeout = '5s'")
    if run(_IS_MISSING).scalar_one():
        run("CREATE SEQUENCE galaxy_express_sequence")
        run(_CONTINUE)
    for table in run(_WITHOUT_DEFAULT).scalars().all():
        run(f"ALTER TABLE {table} ALTER COLUMN sequence SET DEFAULT (galaxy_express_draw(1))[1]")
