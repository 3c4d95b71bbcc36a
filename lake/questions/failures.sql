-- Title: what fails, between whom, and why
-- Answers: Which connections never came about or broke, how often, since when, and what share of the attempts is that?
-- Counts: connections that ended in the window; where both ends were captured, as the client saw it. attempts are
--     those of the same client, server and port that ended, well or not.
-- Parameter: since time 1h begin of the window
-- Parameter: until time 0s end of the window, exclusive
-- Parameter: workload text '' only pairs with this workload (or address) at either end
-- Parameter: port integer 0 only servers on this port; 0 for all
-- Parameter: limit integer 20 rows at most
WITH
-- include: connections
,
attempts AS (
    SELECT client, server, server_port, count(*) AS attempts
    FROM connections
    WHERE ended = 1
    GROUP BY client, server, server_port
),
failures AS (
    SELECT
        client,
        server,
        server_port,
        close_reason,
        close_detail,
        role,
        count(*) AS failed,
        CAST(sum(syn_retransmits) AS BIGINT) AS syn_retransmits,
        min(last_time) AS first_time,
        max(last_time) AS last_time
    FROM connections
    WHERE failed = 1
    GROUP BY client, server, server_port, close_reason, close_detail, role
)
SELECT
    failures.client,
    failures.server,
    failures.server_port,
    failures.close_reason,
    failures.close_detail,
    failures.role AS seen_by,
    failures.failed,
    attempts.attempts,
    CAST(failures.failed AS DOUBLE) / attempts.attempts AS failed_share,
    failures.syn_retransmits,
    failures.first_time,
    failures.last_time
FROM failures
JOIN attempts
  ON attempts.client = failures.client
 AND attempts.server = failures.server
 AND attempts.server_port = failures.server_port
WHERE ($workload = '' OR failures.client = $workload OR failures.server = $workload)
  AND ($port = 0 OR failures.server_port = $port)
ORDER BY failures.failed DESC, failures.last_time DESC, failures.client, failures.server, failures.server_port
LIMIT $limit
