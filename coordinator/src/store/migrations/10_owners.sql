-- Whose a node's key is stands with the key: every request asks it, and a binding writes one index of keys instead of two.
-- A key that is not its seat's any more was replaced.
DROP TRIGGER keys_are_never_changed;
ALTER TABLE keys ADD COLUMN seat INTEGER REFERENCES seats (id) CHECK (seat IS NULL OR kind = 'node');
UPDATE keys SET seat = coalesce((SELECT id FROM seats WHERE seats.key = keys.id),
                                (SELECT former_keys.seat FROM former_keys WHERE former_keys.key = keys.id))
    WHERE kind = 'node';
CREATE TRIGGER keys_are_never_changed BEFORE UPDATE ON keys
    BEGIN SELECT RAISE(ABORT, 'a key never gets a second name'); END;
DROP TABLE former_keys;

CREATE TABLE seats_v2 (
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
    key TEXT REFERENCES keys (id),
    reason TEXT,
    bound INTEGER,
    passed INTEGER,
    ready INTEGER,
    facts TEXT,
    confirm_console INTEGER NOT NULL DEFAULT 0 CHECK (confirm_console IN (0, 1)),
    console_key TEXT,
    ratchet_from TEXT,
    ratchet_held TEXT,
    rotate INTEGER NOT NULL DEFAULT 0 CHECK (rotate IN (0, 1)),
    token TEXT CHECK (token IN ('wanted', 'made', 'unwanted', 'gone')),
    object TEXT CHECK (object IN ('doomed', 'gone')),
    left INTEGER,
    UNIQUE (node, generation),
    CHECK (state NOT IN ('bound', 'held') OR key IS NOT NULL),
    CHECK (state <> 'issued' OR key IS NULL)
) STRICT;
INSERT INTO seats_v2 SELECT id, incarnation, node, generation, role, ticket, not_before, expires, minted_expires,
    hints, state, key, reason, bound, passed, ready, facts, confirm_console, console_key, ratchet_from,
    ratchet_held, rotate, token, object, left FROM seats;
DROP TABLE seats;
ALTER TABLE seats_v2 RENAME TO seats;
CREATE UNIQUE INDEX one_live_key_per_node ON seats (node) WHERE state IN ('bound', 'held');
CREATE INDEX seats_of_an_incarnation ON seats (incarnation, role, passed);
CREATE INDEX chores ON seats (incarnation) WHERE token IN ('wanted', 'unwanted') OR object = 'doomed';

-- No line of the trail is ever deleted, so that numbers only grow without
-- AUTOINCREMENT; few lines are noted once, and only those are in an index for it.
CREATE TABLE events_v2 (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    source TEXT,
    what TEXT NOT NULL,
    seat INTEGER REFERENCES seats (id),
    detail TEXT NOT NULL,
    alarm INTEGER NOT NULL CHECK (alarm IN (0, 1)),
    once TEXT
) STRICT;
INSERT INTO events_v2 SELECT id, at, who, source, what, seat, detail, alarm, once FROM events;
DROP TABLE events;
ALTER TABLE events_v2 RENAME TO events;
CREATE UNIQUE INDEX noted_once ON events (once) WHERE once IS NOT NULL;
CREATE INDEX alarms ON events (seat) WHERE alarm;
CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'the audit trail only grows'); END;
CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'the audit trail only grows'); END;
