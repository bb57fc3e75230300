-- Admins come and go; their keys stay noted.
CREATE TABLE admins (
    key TEXT PRIMARY KEY REFERENCES keys (id),
    name TEXT NOT NULL,
    added INTEGER NOT NULL,
    removed INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_key_per_admin ON admins (name) WHERE removed IS NULL;
INSERT INTO admins (key, name, added) SELECT id, name, noted FROM keys WHERE kind = 'admin';
