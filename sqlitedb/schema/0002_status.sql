-- Version 2. The next free place in the status lists; places are taken in blocks and never given twice.
CREATE TABLE status (
	one  INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
	next INTEGER NOT NULL CHECK (next >= 0)
) STRICT;
INSERT INTO status (one, next) VALUES (1, 0);
