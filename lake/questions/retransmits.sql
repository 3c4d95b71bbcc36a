-- Title: where packets have to be sent again
-- Answers: Which senders repeat segments towards whom, what share of their packets is that, and when was the last?
-- Counts: every record, of both ends: each end counts only what it sent itself, so nothing is counted twice.
-- Parameter: since time 1h begin of the window
-- Parameter: until time 0s end of the window, exclusive
-- Parameter: workload text '' only pairs with this workload (or address) at either end
-- Parameter: port integer 0 only servers on this port; 0 for all
-- Parameter: limit integer 20 rows at most
WITH senders AS (
    SELECT
        *,
        coalesce(local_workload, local_address) AS sender,
        coalesce(remote_workload, remote_address) AS receiver,
        CASE WHEN role = 'server' THEN local_port ELSE remote_port END AS server_port
    FROM flows
    WHERE end_time >= $since AND end_time < $until
      AND (date > $since_date OR (date = $since_date AND hour >= $since_hour))
      AND (date < $until_date OR (date = $until_date AND hour <= $until_hour))
)
SELECT
    host,
    sender,
    receiver,
    server_port,
    CAST(sum(retransmits) AS BIGINT) AS retransmits,
    CAST(sum(packets_sent) AS BIGINT) AS packets_sent,
    CAST(sum(retransmits) AS DOUBLE) / nullif(sum(packets_sent), 0) AS retransmits_share,
    CAST(sum(bytes_retransmitted) AS BIGINT) AS bytes_retransmitted,
    CAST(sum(syn_retransmits) AS BIGINT) AS syn_retransmits,
    CAST(sum(timeouts) AS BIGINT) AS timeouts,
    max(rtt_us) AS rtt_max_us,
    max(coalesce(last_retransmit_time, end_time)) AS last_time
FROM senders
WHERE (retransmits > 0 OR syn_retransmits > 0 OR packets_sent > 0)
  AND ($workload = '' OR sender = $workload OR receiver = $workload)
  AND ($port = 0 OR server_port = $port)
GROUP BY host, sender, receiver, server_port
HAVING sum(retransmits) > 0 OR sum(syn_retransmits) > 0
ORDER BY retransmits DESC, syn_retransmits DESC, host, sender, receiver, server_port
LIMIT $limit
