-- Title: which connections are still open, and for how long
-- Answers: Which connections have not closed, how old are they, what did they move in the window, when did they last speak?
-- Counts: connections without a final record, once each, as the client sees them where both ends were captured. Only
--     those of the newest run of each host's sidecar: whether one of an earlier run still lives is not known. An idle
--     connection has no records: widen --since to see those that said nothing. The age is as of the last minute
--     that the host was watched; at least that much where the connection is older than the sidecar.
-- Parameter: since time 24h begin of the window
-- Parameter: until time 0s end of the window, exclusive
-- Parameter: workload text '' only connections with this workload (or address) at either end
-- Parameter: port integer 0 only servers on this port; 0 for all
-- Parameter: limit integer 20 rows at most
WITH
-- include: connections
,
watched AS (
    SELECT host_id, max_by(run_id, minute) AS run_id, max(minute) AS last_minute
    FROM coverage
    WHERE netns IS NULL
      AND minute >= $since AND minute < $until
      AND (date > $since_date OR (date = $since_date AND hour >= $since_hour))
      AND (date < $until_date OR (date = $until_date AND hour <= $until_hour))
    GROUP BY host_id
),
open_connections AS (
    SELECT
        connections.*,
        CASE WHEN last_minute > last_time THEN last_minute ELSE last_time END - began_time AS age
    FROM connections
    JOIN watched
      ON watched.host_id = connections.host_id
     AND watched.run_id = connections.run_id
    WHERE ended = 0
)
SELECT
    host,
    client,
    server,
    server_port,
    process,
    pid,
    CAST(
        extract(DAY FROM age) * 86400 + extract(HOUR FROM age) * 3600
        + extract(MINUTE FROM age) * 60 + extract(SECOND FROM age) AS BIGINT
    ) AS age_seconds,
    older_than_sidecar = 1 AS older_than_sidecar,
    CAST(bytes_to_server AS BIGINT) AS bytes_to_server,
    CAST(bytes_to_client AS BIGINT) AS bytes_to_client,
    state,
    rtt_us,
    last_time
FROM open_connections
WHERE ($workload = '' OR client = $workload OR server = $workload)
  AND ($port = 0 OR server_port = $port)
ORDER BY age_seconds DESC, bytes_to_server + bytes_to_client DESC, client, server, server_port
LIMIT $limit
