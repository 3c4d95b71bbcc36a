-- Title: who listens where, and whose queue overflows
-- Answers: Which process listens on which port, how full was its accept queue, and did it turn connections away?
-- Counts: the walks of the sidecar in the window. accept_queue_peak is the fullest that a walk happened to see.
-- Parameter: since time 1h begin of the window
-- Parameter: until time 0s end of the window, exclusive
-- Parameter: workload text '' only listeners of this workload
-- Parameter: port integer 0 only this port; 0 for all
-- Parameter: limit integer 100 rows at most
SELECT
    host,
    address,
    port,
    coalesce(local_workload, process) AS workload,
    process,
    pid,
    max(accept_queue) AS accept_queue_peak,
    max(accept_queue_max) AS accept_queue_max,
    CAST(sum(overflows) AS BIGINT) AS overflows,
    min(time) AS first_time,
    max(time) AS last_time
FROM listeners
WHERE time >= $since AND time < $until
  AND (date > $since_date OR (date = $since_date AND hour >= $since_hour))
  AND (date < $until_date OR (date = $until_date AND hour <= $until_hour))
  AND ($workload = '' OR local_workload = $workload)
  AND ($port = 0 OR port = $port)
GROUP BY host, netns, address, port, local_workload, process, pid
ORDER BY overflows DESC, accept_queue_peak DESC, host, port, address, pid
LIMIT $limit
