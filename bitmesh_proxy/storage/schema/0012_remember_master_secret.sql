-- Consumer secrets are derived from a master secret, which is not in here. Which one the service uses can be told by this:
-- whoever holds another one would make secrets that do not work.
CREATE TABLE master_secret (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    fingerprint BLOB NOT NULL
) STRICT;
