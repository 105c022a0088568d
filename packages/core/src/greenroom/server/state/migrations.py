"""The schema of the state file, as a list of migrations. A released migration is never changed: add another one."""

from __future__ import annotations

APPLICATION = 0x67726E72
"""The application id that marks a database as a state file."""

MIGRATIONS = (
    """
    CREATE TABLE pools (
        id TEXT PRIMARY KEY,      -- of the pool, in lower case
        path TEXT NOT NULL,       -- its id as it was first given
        resource TEXT NOT NULL,   -- JSON, with the values of its secrets
        next TEXT,                -- JSON: an update that was accepted and has not ended
        deleting INTEGER NOT NULL DEFAULT 0,
        facts TEXT NOT NULL       -- JSON: systemData
    ) STRICT;

    CREATE TABLE operations (
        id TEXT PRIMARY KEY,
        pool TEXT NOT NULL,       -- the id of its pool
        status TEXT NOT NULL,
        started TEXT NOT NULL,
        ended TEXT,
        error TEXT                -- JSON: [code, message]
    ) STRICT;

    CREATE TABLE deleted (
        name TEXT PRIMARY KEY,    -- of a pool that was, in lower case
        number INTEGER NOT NULL   -- in the order of deletion
    ) STRICT
    """,
    """
    CREATE TABLE records (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time REAL NOT NULL,       -- seconds since 1970
        log TEXT NOT NULL,        -- a LogTable
        pool TEXT NOT NULL,
        operation TEXT NOT NULL,
        level TEXT NOT NULL,
        text TEXT NOT NULL,
        identifier TEXT,
        status TEXT,
        reason TEXT,
        duration REAL,
        output INTEGER,
        size INTEGER,
        weight INTEGER NOT NULL   -- about how many bytes the row takes
    ) STRICT;

    CREATE INDEX records_by_log ON records (log);

    CREATE TABLE usage (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        pool TEXT NOT NULL,
        identifier TEXT,          -- NULL for a sandbox that served no session
        cause TEXT NOT NULL,
        began REAL NOT NULL,      -- seconds since 1970
        ended REAL NOT NULL,
        removed REAL NOT NULL,    -- when the sandbox was gone: until then, the pool counts it among its present ones
        wall REAL NOT NULL,       -- seconds
        executions INTEGER NOT NULL,
        uploaded INTEGER NOT NULL,
        downloaded INTEGER NOT NULL,
        source TEXT NOT NULL,     -- of the following: a UsageSource
        cpu REAL,                 -- seconds
        memory_time REAL,         -- byte-seconds
        peak_memory INTEGER,
        session_hours INTEGER NOT NULL,
        node_hours REAL NOT NULL,
        weight INTEGER NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE executions (
        pool TEXT NOT NULL,       -- its name in metrics, which no other pool has
        identifier TEXT NOT NULL, -- its session's
        id TEXT NOT NULL,
        request BLOB NOT NULL,    -- JSON, without the code
        ended REAL,               -- seconds since 1970, or NULL while it runs
        outcome BLOB,             -- JSON: an outcome, or an error
        PRIMARY KEY (pool, identifier, id)
    ) STRICT
    """,
)
