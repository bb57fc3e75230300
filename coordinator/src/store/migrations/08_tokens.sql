-- Rotation of a cluster's tokens; the tokens themselves are among its secrets.

-- How often it was asked for, since when it is under way, and what the last try
-- said; when it last came to its end.
ALTER TABLE incarnations ADD COLUMN tokens_serial INTEGER NOT NULL DEFAULT 0;
ALTER TABLE incarnations ADD COLUMN tokens_asked INTEGER;
ALTER TABLE incarnations ADD COLUMN tokens_trouble TEXT;
ALTER TABLE incarnations ADD COLUMN tokens_rotated INTEGER;
