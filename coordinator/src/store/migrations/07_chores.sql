-- What of a node is in its cluster: what chores are made of.

-- An agent's own join token: to be made, there, to be deleted, deleted.
ALTER TABLE seats ADD COLUMN token TEXT CHECK (token IN ('wanted', 'made', 'unwanted', 'gone'));
-- A Node object that is to be deleted, or was.
ALTER TABLE seats ADD COLUMN object TEXT CHECK (object IN ('doomed', 'gone'));
-- When the datastore was known to lack a server that had passed the gate.
ALTER TABLE seats ADD COLUMN left INTEGER;
UPDATE seats SET token = 'wanted' WHERE role = 'agent' AND state IN ('bound', 'held');
CREATE INDEX chores ON seats (incarnation) WHERE token IN ('wanted', 'unwanted') OR object = 'doomed';
-- The copy of a datastore that the lease's next holder begins with.
ALTER TABLE incarnations ADD COLUMN restore_path TEXT;
ALTER TABLE incarnations ADD COLUMN restore_size INTEGER;
ALTER TABLE incarnations ADD COLUMN restore_sha256 TEXT;
