-- When a key's budget changes, what counts for it is counted anew from the ledger. How far back went by the newest request
-- alone: if that says that it began later than now (the clock was wrong then), this month was left out, and the key could
-- spend its budget once more. Now it goes back to the month before the newest request's or before this one, whichever is
-- earlier, and to that of the key's oldest open request, whose hold would not be counted else.

DROP TRIGGER keys_budget_counts_anew;

CREATE TRIGGER keys_budget_counts_anew AFTER UPDATE OF budget_day_nano_usd, budget_month_nano_usd ON keys
BEGIN
    DELETE FROM key_spend WHERE key = NEW.number;
    INSERT INTO key_spend (key, period, spent_nano_usd, held_nano_usd)
    SELECT NEW.number, strftime(form, started_at_ms / 1000, 'unixepoch'), sum(charge_nano_usd),
           sum(CASE state WHEN 'open' THEN hold_nano_usd ELSE 0 END)
    FROM (
        SELECT 1000 * min(since_s) AS since_ms FROM (
            SELECT CAST(strftime('%s', 'now', 'start of month', '-1 month') AS INTEGER) AS since_s
            UNION ALL
            SELECT * FROM (
                SELECT CAST(strftime('%s', started_at_ms / 1000, 'unixepoch', 'start of month', '-1 month') AS INTEGER)
                FROM requests ORDER BY number DESC LIMIT 1
            )
            UNION ALL
            SELECT CAST(strftime('%s', started_at_ms / 1000, 'unixepoch', 'start of month') AS INTEGER)
            FROM open_requests CROSS JOIN requests ON requests.number = open_requests.number AND key = NEW.number
        )
    ) AS counted
    CROSS JOIN (
        SELECT request FROM request_runs CROSS JOIN requests_by_run ON run = request_runs.number AND key = NEW.number
        WHERE NEW.budget_day_nano_usd IS NOT NULL OR NEW.budget_month_nano_usd IS NOT NULL
        UNION ALL
        SELECT number FROM requests
        WHERE number > coalesce((SELECT last_request FROM request_runs ORDER BY number DESC LIMIT 1), 0)
          AND key = NEW.number
          AND (NEW.budget_day_nano_usd IS NOT NULL OR NEW.budget_month_nano_usd IS NOT NULL)
    ) AS found
    CROSS JOIN requests ON requests.number = found.request AND requests.started_at_ms >= counted.since_ms
    CROSS JOIN (SELECT '%Y-%m-%d' AS form UNION ALL SELECT '%Y-%m') AS forms
    GROUP BY 2;
END;
