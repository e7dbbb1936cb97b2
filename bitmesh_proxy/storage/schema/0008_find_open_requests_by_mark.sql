-- Open requests were found by an index of their own: an entry made at each opening and taken out again at each closing,
-- for a question that is asked when a process starts. Now a mark says up to which row was looked (storage/open_rows.py),
-- and rows that were open when it passed them are noted. A row is opened once, so that every open one is beyond the mark
-- or noted.

CREATE TABLE open_mark (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    last_request INTEGER NOT NULL
) STRICT;

-- Some of them may be closed meanwhile.
CREATE TABLE late_requests (
    number INTEGER PRIMARY KEY
) STRICT;

INSERT INTO open_mark (one, last_request) SELECT 1, coalesce(max(number), 0) FROM requests;

INSERT INTO late_requests (number) SELECT number FROM requests INDEXED BY requests_open WHERE state = 'open';

DROP INDEX requests_open;

-- (+state: or an index over all rows would be made each time, to find those with that state.)
CREATE VIEW open_requests AS
SELECT requests.number
FROM open_mark CROSS JOIN requests ON requests.number > open_mark.last_request WHERE +state = 'open'
UNION
SELECT requests.number
FROM late_requests CROSS JOIN requests ON requests.number = late_requests.number WHERE +state = 'open';

-- Rows get the number behind the last: when that row goes, its number may come again.
CREATE TRIGGER requests_deleted_move_the_mark AFTER DELETE ON requests
BEGIN
    UPDATE open_mark
    SET last_request = min(last_request, coalesce((SELECT number FROM requests ORDER BY number DESC LIMIT 1), 0));
END;
