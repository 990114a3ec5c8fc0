-- Version 1. Times are Unix milliseconds, 0 is "never" or "not yet"; days are counted from 1970 on.
-- What is personal is in columns named sealed…: only the server's key ring opens them.

-- One family is one row for ever. A rotation changes version, status and what stands between head and room,
-- none of it in an index. Integers take more bytes as they grow; room gives back as many, so a row keeps its size.
CREATE TABLE family (
	id            BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
	version       INTEGER NOT NULL CHECK (version > 0),
	status        INTEGER NOT NULL CHECK (status IN (1, 2)), -- 1 live, 2 revoked
	reason        INTEGER NOT NULL CHECK ((status = 1) = (reason = 0)),
	head          INTEGER NOT NULL CHECK (head BETWEEN 0 AND 4294967295),
	head_key      INTEGER NOT NULL CHECK (head_key BETWEEN 0 AND 65535),
	floor         INTEGER NOT NULL CHECK (floor BETWEEN 0 AND head),
	window_start  INTEGER NOT NULL,
	retry_hash    BLOB    NOT NULL CHECK (length(retry_hash) = 16),
	presenter     BLOB    NOT NULL CHECK (length(presenter) = 8),
	last_used     INTEGER NOT NULL,
	idle_ends     INTEGER NOT NULL,
	trail         BLOB    NOT NULL CHECK (length(trail) = 194),
	room          BLOB    NOT NULL,
	bucket        INTEGER,          -- the day on which it is over, if nothing happens; NULL: never
	issued_at     INTEGER NOT NULL,
	ends          INTEGER NOT NULL,
	client        TEXT    NOT NULL,
	user          TEXT    NOT NULL, -- '': the client acts for itself
	session       BLOB    NOT NULL CHECK (length(session) = 16), -- zero: none
	sealed_grant  BLOB    NOT NULL,
	sealed_places BLOB              -- NULL: used from nowhere yet
) STRICT;
CREATE INDEX family_client ON family (client, id);
CREATE INDEX family_user ON family (user, id) WHERE user <> '';
CREATE INDEX family_session ON family (session, id) WHERE session <> x'00000000000000000000000000000000';
CREATE INDEX family_bucket ON family (bucket) WHERE bucket IS NOT NULL;

-- The audit log, in the order of commits. The newest row is never removed, so no number is given twice.
CREATE TABLE event (
	seq           INTEGER NOT NULL PRIMARY KEY,
	at            INTEGER NOT NULL,
	level         INTEGER NOT NULL CHECK (level IN (1, 2)), -- 1 info, 2 alert
	kind          TEXT    NOT NULL,
	reason        INTEGER NOT NULL, -- 0: none
	family        BLOB    CHECK (length(family) = 16),
	generation    INTEGER NOT NULL,
	client        TEXT    NOT NULL,
	user          TEXT,
	session       BLOB    CHECK (length(session) = 16),
	request       TEXT    NOT NULL,
	detail        TEXT    NOT NULL,
	sealed_origin BLOB
) STRICT;
CREATE INDEX event_family ON event (family) WHERE family IS NOT NULL;
CREATE INDEX event_user ON event (user) WHERE user IS NOT NULL;
CREATE INDEX event_session ON event (session) WHERE session IS NOT NULL;
CREATE INDEX event_alert ON event (level) WHERE level = 2;

-- Access tokens that were revoked before their time.
CREATE TABLE denied (
	jti   TEXT    NOT NULL PRIMARY KEY,
	until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX denied_until ON denied (until);

-- A deleted client is a row whose body is gone: its id is never given again.
CREATE TABLE client (
	id      TEXT    NOT NULL PRIMARY KEY CHECK (id <> ''),
	version INTEGER NOT NULL CHECK (version > 0),
	deleted INTEGER NOT NULL,
	body    TEXT    CHECK ((body IS NULL) = (deleted <> 0))
) STRICT, WITHOUT ROWID;

-- Likewise a deleted user, of whom nothing but the identifier remains.
CREATE TABLE user (
	id          TEXT    NOT NULL PRIMARY KEY CHECK (id <> ''),
	version     INTEGER NOT NULL CHECK (version > 0),
	status      INTEGER NOT NULL CHECK (status IN (1, 2)), -- 1 enabled, 2 disabled
	deleted     INTEGER NOT NULL,
	not_before  INTEGER NOT NULL,
	reason      INTEGER NOT NULL, -- of the cut-off
	keep        BLOB    NOT NULL CHECK (length(keep) = 16),
	name_index  BLOB    UNIQUE CHECK (length(name_index) = 32), -- keyed hash of the username
	sealed_body BLOB,
	CHECK ((sealed_body IS NULL) = (deleted <> 0)),
	CHECK ((name_index IS NULL) = (deleted <> 0))
) STRICT, WITHOUT ROWID;

CREATE TABLE consent (
	user       TEXT    NOT NULL,
	client     TEXT    NOT NULL,
	scope      TEXT    NOT NULL,
	resources  TEXT    NOT NULL CHECK (json_valid(resources)),
	granted_at INTEGER NOT NULL,
	PRIMARY KEY (user, client)
) STRICT, WITHOUT ROWID;
CREATE INDEX consent_client ON consent (client);

CREATE TABLE session (
	id          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
	version     INTEGER NOT NULL CHECK (version > 0),
	user        TEXT    NOT NULL,
	status      INTEGER NOT NULL CHECK (status IN (1, 2)), -- 1 live, 2 ended
	over        INTEGER NOT NULL, -- when it ended or will end
	sealed_body BLOB    NOT NULL
) STRICT;
CREATE INDEX session_user ON session (user, id);
CREATE INDEX session_over ON session (over);

-- Cut-offs whose families are still to be marked, one by one, behind the id in done.
CREATE TABLE cut (
	kind INTEGER NOT NULL CHECK (kind IN (1, 2)), -- 1 of a user, 2 of a client
	id   TEXT    NOT NULL,
	done BLOB    NOT NULL,
	PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

-- The server's own keys, wrapped by a key that is not in this file. Times are Unix seconds.
CREATE TABLE server_key (
	use     TEXT    NOT NULL,
	id      INTEGER NOT NULL CHECK (id BETWEEN 1 AND 65535),
	alg     TEXT    NOT NULL,
	created INTEGER NOT NULL,
	signs   INTEGER NOT NULL,
	wrapped BLOB    NOT NULL,
	kek     TEXT    NOT NULL,
	PRIMARY KEY (use, id)
) STRICT, WITHOUT ROWID;

-- One row, written when somebody asks whether the store can be written.
CREATE TABLE alive (
	one    INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
	pinged INTEGER NOT NULL
) STRICT;
INSERT INTO alive (one, pinged) VALUES (1, 0);
