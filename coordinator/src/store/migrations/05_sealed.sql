-- Copies of the key files, sealed under the unlock key; with it, the secrets of
-- incarnations are sealed too (`sealed::settle`).

CREATE TABLE sealed (
    name TEXT PRIMARY KEY,
    envelope TEXT NOT NULL
) STRICT, WITHOUT ROWID;
PRAGMA application_id = 1265200238;
