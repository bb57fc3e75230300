-- Every durable key of every kind, each noted once, for one purpose, for ever.
-- TLS keys by the hex SHA-256 of their SPKI, tickets by their public key.
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('coordinator', 'admin', 'node', 'ticket')),
    name TEXT NOT NULL,
    noted INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER keys_are_never_deleted BEFORE DELETE ON keys
    BEGIN SELECT RAISE(ABORT, 'a key is never forgotten'); END;
CREATE TRIGGER keys_are_never_changed BEFORE UPDATE ON keys
    BEGIN SELECT RAISE(ABORT, 'a key never gets a second name'); END;

-- The lives of the cluster. The secrets go when a life ends.
CREATE TABLE incarnations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    begun INTEGER NOT NULL,
    ended INTEGER,
    cluster_file TEXT NOT NULL,
    secrets TEXT,
    lease_node TEXT NOT NULL,
    lease_generation INTEGER,
    CHECK ((ended IS NULL) = (secrets IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX one_live_incarnation ON incarnations ((1)) WHERE ended IS NULL;

-- One generation of one node, with the ticket that stands for it.
CREATE TABLE seats (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    incarnation INTEGER NOT NULL REFERENCES incarnations (id),
    node TEXT NOT NULL,
    generation INTEGER NOT NULL CHECK (generation > 0),
    role TEXT NOT NULL CHECK (role IN ('server', 'agent')),
    ticket TEXT NOT NULL UNIQUE REFERENCES keys (id),
    not_before INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    minted_expires INTEGER NOT NULL,
    hints TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('issued', 'bound', 'held', 'superseded', 'revoked')),
    key TEXT UNIQUE REFERENCES keys (id),
    reason TEXT,
    bound INTEGER,
    passed INTEGER,
    ready INTEGER,
    facts TEXT,
    UNIQUE (node, generation),
    CHECK (state NOT IN ('bound', 'held') OR key IS NOT NULL),
    CHECK (state <> 'issued' OR key IS NULL)
) STRICT;
CREATE UNIQUE INDEX one_live_key_per_node ON seats (node) WHERE state IN ('bound', 'held');
CREATE INDEX seats_of_an_incarnation ON seats (incarnation, role, passed);

-- The newest report of each boot, and when its steps were first done.
CREATE TABLE boots (
    seat INTEGER NOT NULL REFERENCES seats (id),
    boot_id TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    report TEXT NOT NULL,
    usage TEXT,
    seen INTEGER NOT NULL,
    PRIMARY KEY (seat, boot_id),
    UNIQUE (seat, ordinal)
) STRICT, WITHOUT ROWID;
CREATE TABLE steps (
    seat INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    step TEXT NOT NULL,
    uptime_ms INTEGER NOT NULL,
    PRIMARY KEY (seat, boot_id, step),
    FOREIGN KEY (seat, boot_id) REFERENCES boots (seat, boot_id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- The audit trail: who did what to which node, when, from where.
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    source TEXT,
    what TEXT NOT NULL,
    seat INTEGER REFERENCES seats (id),
    detail TEXT NOT NULL,
    alarm INTEGER NOT NULL CHECK (alarm IN (0, 1)),
    once TEXT UNIQUE
) STRICT;
CREATE INDEX alarms ON events (seat) WHERE alarm;
CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'the audit trail only grows'); END;
CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'the audit trail only grows'); END;
