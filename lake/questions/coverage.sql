-- Title: what is missing, where and why
-- Answers: Which hosts were watched in the window, which minutes were not, and how many flows were lost, for which reason?
-- Counts: minutes of the headers that the sidecars wrote. A minute is missing where the host has no row at all: of the
--     window asked for, so a host that joined late misses the minutes before. An idle host still writes one row a minute.
-- Parameter: since time 1h begin of the window
-- Parameter: until time 0s end of the window, exclusive
WITH minutes AS (
    SELECT *
    FROM coverage
    WHERE minute >= $since AND minute < $until
      AND (date > $since_date OR (date = $since_date AND hour >= $since_hour))
      AND (date < $until_date OR (date = $until_date AND hour <= $until_hour))
)
SELECT
    max(host) AS host,
    count(DISTINCT CASE WHEN netns IS NULL THEN minute END) AS minutes_watched,
    $window_minutes - count(DISTINCT CASE WHEN netns IS NULL THEN minute END) AS minutes_missing,
    min(minute) AS first_minute,
    max(minute) AS last_minute,
    count(DISTINCT run_id) AS runs,
    CAST(sum(captured) AS BIGINT) AS captured,
    CAST(sum(written) AS BIGINT) AS written,
    CAST(sum(dropped_ring_full) AS BIGINT) AS dropped_ring_full,
    CAST(sum(dropped_half_open_full) AS BIGINT) AS dropped_half_open_full,
    CAST(sum(dropped_storage_full) AS BIGINT) AS dropped_storage_full,
    CAST(sum(dropped_unseen_end) AS BIGINT) AS dropped_unseen_end,
    CAST(sum(dropped_spool_full) AS BIGINT) AS dropped_spool_full,
    CAST(sum(dropped_spool_corrupt) AS BIGINT) AS dropped_spool_corrupt,
    CAST(sum(dropped_spool_error) AS BIGINT) AS dropped_spool_error,
    CAST(sum(dropped_other) AS BIGINT) AS dropped_other,
    CAST(sum(rejected) AS BIGINT) AS rejected,
    CAST(sum(expired) AS BIGINT) AS expired,
    CAST(sum(missing_batches) AS BIGINT) AS missing_batches,
    CAST(sum(delayed_interims) AS BIGINT) AS delayed_interims,
    min(clock_offset_us) AS clock_offset_us,
    CAST(sum(listen_overflows) AS BIGINT) AS listen_overflows,
    CAST(sum(listen_drops) AS BIGINT) AS listen_drops,
    CAST(sum(out_no_routes) AS BIGINT) AS out_no_routes,
    CAST(sum(half_open) AS BIGINT) AS half_open
FROM minutes
GROUP BY host_id
ORDER BY minutes_missing DESC, host
