-- Clone ratchets, rotation, epochs and the recovery key.

-- A further kind of key. A CHECK is changed by making the table anew, which
-- needs foreign keys to be off, as they are while migrating.
CREATE TABLE keys_v2 (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('coordinator', 'admin', 'node', 'ticket', 'recovery')),
    name TEXT NOT NULL,
    noted INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO keys_v2 SELECT id, kind, name, noted FROM keys;
DROP TABLE keys;
ALTER TABLE keys_v2 RENAME TO keys;
CREATE TRIGGER keys_are_never_deleted BEFORE DELETE ON keys
    BEGIN SELECT RAISE(ABORT, 'a key is never forgotten'); END;
CREATE TRIGGER keys_are_never_changed BEFORE UPDATE ON keys
    BEGIN SELECT RAISE(ABORT, 'a key never gets a second name'); END;

-- The keys that rotation took out of use. Their second use is an alarm.
CREATE TABLE former_keys (
    key TEXT PRIMARY KEY REFERENCES keys (id),
    seat INTEGER NOT NULL REFERENCES seats (id),
    replaced INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Each node's clone ratchet: the notch it came from last, and the one held.
ALTER TABLE seats ADD COLUMN ratchet_from TEXT;
ALTER TABLE seats ADD COLUMN ratchet_held TEXT;
-- An operator wants its key replaced.
ALTER TABLE seats ADD COLUMN rotate INTEGER NOT NULL DEFAULT 0 CHECK (rotate IN (0, 1));

-- What is true of the coordinator itself: one row.
CREATE TABLE coordinator (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    -- How far this state is, as nodes are told.
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    -- How far a node says, with our signature, that it was once.
    newer_epoch INTEGER,
    newer_seq INTEGER,
    newer_seen INTEGER,
    -- Public half of the recovery key, and its last word about our own key.
    recovery TEXT REFERENCES keys (id),
    pin_serial INTEGER,
    pin_signature TEXT,
    pin TEXT REFERENCES keys (id)
) STRICT;
INSERT INTO coordinator (id, epoch, seq) VALUES (1, 1, 0);
