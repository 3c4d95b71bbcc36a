-- Title: who talks to whom, and how much
-- Answers: Which pairs moved the most bytes, how many connections did they open, and how many failed?
-- Counts: minutes of `edges`; where both ends of a connection were captured, the client's view of it.
-- Parameter: since time 1h begin of the window
-- Parameter: until time 0s end of the window, exclusive
-- Parameter: workload text '' only pairs with this workload (or address) at either end
-- Parameter: port integer 0 only servers on this port; 0 for all
-- Parameter: limit integer 20 rows at most
WITH pairs AS (
    SELECT
        *,
        coalesce(client_workload, client_address) AS client,
        coalesce(server_workload, server_address) AS server
    FROM edges
    WHERE minute >= $since AND minute < $until
      AND (date > $since_date OR (date = $since_date AND hour >= $since_hour))
      AND (date < $until_date OR (date = $until_date AND hour <= $until_hour))
      AND (NOT other_end_seen OR observer = 'client')
)
SELECT
    client,
    server,
    server_port,
    CAST(sum(bytes_sent) AS BIGINT) AS bytes_to_server,
    CAST(sum(bytes_received) AS BIGINT) AS bytes_to_client,
    CAST(sum(opened) AS BIGINT) AS opened,
    CAST(sum(failed) AS BIGINT) AS failed,
    CAST(sum(rtt_us_sum) / nullif(sum(rtt_samples), 0) AS BIGINT) AS rtt_mean_us,
    CAST(sum(retransmits) AS BIGINT) AS retransmits,
    max(minute) AS last_minute
FROM pairs
WHERE ($workload = '' OR client = $workload OR server = $workload)
  AND ($port = 0 OR server_port = $port)
GROUP BY client, server, server_port
ORDER BY bytes_to_server + bytes_to_client DESC, opened DESC, client, server, server_port
LIMIT $limit
