-- Who may write: each opener raises the number, and writes as long as it stands.
CREATE TABLE writer (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    fence INTEGER NOT NULL
) STRICT;
INSERT INTO writer (one, fence) VALUES (1, 0);
