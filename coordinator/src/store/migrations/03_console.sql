-- Whether the console of a seat's machine is read, and which key it shows.
ALTER TABLE seats ADD COLUMN confirm_console INTEGER NOT NULL DEFAULT 0 CHECK (confirm_console IN (0, 1));
ALTER TABLE seats ADD COLUMN console_key TEXT;
