-- Which numbers were handed out: `registry::runs`.

-- The runs of seq in the present epoch. The one without a last is the present
-- run, which is as far as coordinator.seq.
CREATE TABLE runs (
    first INTEGER PRIMARY KEY CHECK (first >= 0),
    last INTEGER CHECK (last >= first)
) STRICT;
CREATE UNIQUE INDEX one_present_run ON runs ((1)) WHERE last IS NULL;
-- Until now every epoch was one run, from 0 on.
INSERT INTO runs (first) VALUES (0);
