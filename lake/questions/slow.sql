-- Title: what is slow to connect, or far away
-- Answers: Which pairs wait longest for a connection or for an answer on the wire, and is the receiver what holds them?
-- Counts: connections with a record in the window, once each, as the client saw them where both ends were captured.
--     p50 is the (lower) median over connections: of connect_us, and of the last smoothed rtt_us; max is over records.
-- Parameter: since time 1h begin of the window
-- Parameter: until time 0s end of the window, exclusive
-- Parameter: workload text '' only pairs with this workload (or address) at either end
-- Parameter: port integer 0 only servers on this port; 0 for all
-- Parameter: limit integer 20 rows at most
WITH
-- include: connections
,
ranked AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY client, server, server_port ORDER BY connect_us NULLS LAST) AS connect_rank,
        count(connect_us) OVER (PARTITION BY client, server, server_port) AS connects,
        row_number() OVER (PARTITION BY client, server, server_port ORDER BY rtt_us NULLS LAST) AS rtt_rank,
        count(rtt_us) OVER (PARTITION BY client, server, server_port) AS rtts
    FROM connections
),
pairs AS (
    SELECT
        client,
        server,
        server_port,
        count(*) AS connections,
        -- An exact median without a function of any one engine: the value whose rank is half of the count, rounded up.
        max(CASE WHEN connect_rank * 2 BETWEEN connects AND connects + 1 THEN connect_us END) AS connect_p50_us,
        max(connect_us) AS connect_max_us,
        max(CASE WHEN rtt_rank * 2 BETWEEN rtts AND rtts + 1 THEN rtt_us END) AS rtt_p50_us,
        max(rtt_us_max) AS rtt_max_us,
        CAST(sum(syn_retransmits) AS BIGINT) AS syn_retransmits,
        CAST(sum(rwnd_limited_us) AS DOUBLE) / nullif(sum(busy_us), 0) AS receiver_limited_share,
        max(last_time) AS last_time
    FROM ranked
    GROUP BY client, server, server_port
)
SELECT *
FROM pairs
WHERE ($workload = '' OR client = $workload OR server = $workload)
  AND ($port = 0 OR server_port = $port)
  AND (connect_max_us IS NOT NULL OR rtt_max_us IS NOT NULL)
ORDER BY
    CASE WHEN coalesce(connect_p50_us, 0) > coalesce(rtt_p50_us, 0) THEN connect_p50_us ELSE rtt_p50_us END DESC,
    client, server, server_port
LIMIT $limit
