-- One row per connection that has a record in the window: its records summed, and counted once.
--
-- Where both ends were captured, the client's records stand and the server's are left out: the client is who waits.
-- They are the same connection if addresses and ports mirror each other in the same network and their lifetimes
-- overlap, give or take a second of clock difference. A part of other questions: `-- include: connections`.
records AS (
    SELECT
        *,
        coalesce(opened_time, start_time) AS began_time,
        coalesce(local_workload, local_address) AS local_name,
        coalesce(remote_workload, remote_address) AS remote_name
    FROM flows
    WHERE end_time >= $since AND end_time < $until
      AND (date > $since_date OR (date = $since_date AND hour >= $since_hour))
      AND (date < $until_date OR (date = $until_date AND hour <= $until_hour))
),
ends AS (
    SELECT
        host_id,
        flow_id,
        max(host) AS host,
        max_by(run_id, end_time) AS run_id,
        max(network) AS network,
        max(role) AS role,
        max(local_address) AS local_address,
        max(local_port) AS local_port,
        max(remote_address) AS remote_address,
        max(remote_port) AS remote_port,
        max_by(local_name, end_time) AS local_name,
        max_by(remote_name, end_time) AS remote_name,
        max_by(process, end_time) AS process,
        max_by(pid, end_time) AS pid,
        min(began_time) AS began_time,
        max(end_time) AS last_time,
        max(CASE WHEN opened_time IS NULL THEN 1 ELSE 0 END) AS older_than_sidecar,
        max(CASE WHEN final THEN 1 ELSE 0 END) AS ended,
        max(CASE WHEN final THEN close_reason END) AS close_reason,
        max(CASE WHEN final THEN close_detail END) AS close_detail,
        max_by(state, end_time) AS state,
        sum(bytes_sent) AS bytes_sent,
        sum(bytes_received) AS bytes_received,
        sum(syn_retransmits) AS syn_retransmits,
        max(connect_us) AS connect_us,
        max_by(rtt_us, end_time) AS rtt_us,
        max(rtt_us) AS rtt_us_max,
        sum(busy_us) AS busy_us,
        sum(rwnd_limited_us) AS rwnd_limited_us
    FROM records
    GROUP BY host_id, flow_id
),
connections AS (
    SELECT
        ends.*,
        CASE WHEN role = 'server' THEN remote_name ELSE local_name END AS client,
        CASE WHEN role = 'server' THEN local_name ELSE remote_name END AS server,
        CASE WHEN role = 'server' THEN local_port ELSE remote_port END AS server_port,
        CASE WHEN role = 'server' THEN bytes_received ELSE bytes_sent END AS bytes_to_server,
        CASE WHEN role = 'server' THEN bytes_sent ELSE bytes_received END AS bytes_to_client,
        CASE
            WHEN ended = 0 THEN 0
            WHEN close_reason IN ('refused', 'connect_timeout', 'unreachable', 'not_sent', 'half_open') THEN 1
            WHEN close_reason IN ('reset_remote', 'timed_out', 'aborted') THEN 1
            WHEN close_reason = 'abandoned' AND syn_retransmits > 0 THEN 1
            ELSE 0
        END AS failed
    FROM ends
    WHERE role <> 'server'
       OR NOT EXISTS (
            SELECT 1
            FROM ends AS other
            WHERE other.role = 'client'
              AND other.network = ends.network
              AND other.local_address = ends.remote_address
              AND other.local_port = ends.remote_port
              AND other.remote_address = ends.local_address
              AND other.remote_port = ends.local_port
              AND other.began_time <= ends.last_time + INTERVAL '1' SECOND
              AND other.last_time >= ends.began_time - INTERVAL '1' SECOND
       )
)
