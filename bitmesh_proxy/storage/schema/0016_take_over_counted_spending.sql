-- A key's spending of two months was counted where its budget changed, in the transaction that changed it: with millions
-- of requests that took seconds, in which nothing else was written. Now who changes a budget may have counted before
-- (storage/spending.py), and lays here what was found, beside the change and for as long as it takes. What is not there,
-- as when somebody changes keys by hand, is counted as before.

-- From when on, in Unix seconds, spending counts for a key: from the month before the newest request's or before this one,
-- whichever is earlier, and from that of the key's oldest open request, whose hold would not be counted else.
CREATE VIEW spending_counts_since AS
SELECT number AS key, (
    SELECT min(since_s) FROM (
        SELECT CAST(strftime('%s', 'now', 'start of month', '-1 month') AS INTEGER) AS since_s
        UNION ALL
        SELECT * FROM (
            SELECT CAST(strftime('%s', started_at_ms / 1000, 'unixepoch', 'start of month', '-1 month') AS INTEGER)
            FROM requests ORDER BY requests.number DESC LIMIT 1
        )
        UNION ALL
        SELECT CAST(strftime('%s', started_at_ms / 1000, 'unixepoch', 'start of month') AS INTEGER)
        FROM open_requests CROSS JOIN requests ON requests.number = open_requests.number AND requests.key = keys.number
    )
) AS since_s
FROM keys;

-- What was charged for the key's requests up to last_request that had begun since then and were closed, by day
-- ({"2026-08-20": nano-USD}), and which of them were still open ([number]).
CREATE TABLE counted_spending (
    key INTEGER PRIMARY KEY,
    since_s INTEGER NOT NULL,
    last_request INTEGER NOT NULL,
    spent_nano_usd TEXT NOT NULL,
    open_requests TEXT NOT NULL
) STRICT;

DROP TRIGGER keys_budget_counts_anew;

CREATE TRIGGER keys_budget_counts_anew AFTER UPDATE OF budget_day_nano_usd, budget_month_nano_usd ON keys
BEGIN
    DELETE FROM key_spend WHERE key = NEW.number;
    INSERT INTO key_spend (key, period, spent_nano_usd, held_nano_usd)
    SELECT NEW.number, strftime(form, started_at_ms / 1000, 'unixepoch') AS period, sum(charge_nano_usd),
           sum(CASE state WHEN 'open' THEN hold_nano_usd ELSE 0 END)
    FROM (
        SELECT 1000 * coalesce(counted_spending.since_s, spending_counts_since.since_s) AS since_ms,
               coalesce(last_request, 0) AS last_request
        FROM spending_counts_since LEFT JOIN counted_spending ON counted_spending.key = NEW.number
        WHERE spending_counts_since.key = NEW.number
    ) AS counted
    CROSS JOIN (
        SELECT request
        FROM request_runs CROSS JOIN requests_by_run ON run = request_runs.number AND key = NEW.number
        WHERE request_runs.last_request > coalesce((SELECT last_request FROM counted_spending WHERE key = NEW.number), 0)
          AND (NEW.budget_day_nano_usd IS NOT NULL OR NEW.budget_month_nano_usd IS NOT NULL)
        UNION ALL
        SELECT number FROM requests
        WHERE number > max(coalesce((SELECT last_request FROM request_runs ORDER BY number DESC LIMIT 1), 0),
                           coalesce((SELECT last_request FROM counted_spending WHERE key = NEW.number), 0))
          AND key = NEW.number
          AND (NEW.budget_day_nano_usd IS NOT NULL OR NEW.budget_month_nano_usd IS NOT NULL)
    ) AS found
    CROSS JOIN requests ON requests.number = found.request AND requests.number > counted.last_request
                       AND requests.started_at_ms >= counted.since_ms
    CROSS JOIN (SELECT '%Y-%m-%d' AS form UNION ALL SELECT '%Y-%m') AS forms
    GROUP BY 2 HAVING period IS NOT NULL;
    INSERT INTO key_spend (key, period, spent_nano_usd, held_nano_usd)
    SELECT NEW.number, substr(spent.key, 1, characters) AS period, sum(spent.value), 0
    FROM counted_spending CROSS JOIN json_each(counted_spending.spent_nano_usd) AS spent
    CROSS JOIN (SELECT 10 AS characters UNION ALL SELECT 7) AS lengths
    WHERE counted_spending.key = NEW.number
      AND (NEW.budget_day_nano_usd IS NOT NULL OR NEW.budget_month_nano_usd IS NOT NULL)
    GROUP BY 2
    ON CONFLICT (key, period) DO UPDATE SET spent_nano_usd = spent_nano_usd + excluded.spent_nano_usd;
    INSERT INTO key_spend (key, period, spent_nano_usd, held_nano_usd)
    SELECT NEW.number, strftime(form, started_at_ms / 1000, 'unixepoch') AS period, sum(charge_nano_usd),
           sum(CASE state WHEN 'open' THEN hold_nano_usd ELSE 0 END)
    FROM counted_spending CROSS JOIN json_each(counted_spending.open_requests) AS found
    CROSS JOIN requests ON requests.number = found.value
    CROSS JOIN (SELECT '%Y-%m-%d' AS form UNION ALL SELECT '%Y-%m') AS forms
    WHERE counted_spending.key = NEW.number
      AND (NEW.budget_day_nano_usd IS NOT NULL OR NEW.budget_month_nano_usd IS NOT NULL)
    GROUP BY 2 HAVING period IS NOT NULL
    ON CONFLICT (key, period) DO UPDATE
    SET spent_nano_usd = spent_nano_usd + excluded.spent_nano_usd,
        held_nano_usd = held_nano_usd + excluded.held_nano_usd;
END;
