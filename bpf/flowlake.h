/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The ABI between the probe in the kernel and the sidecar: records, counters, settings, and nothing else.
 * sidecar/probe/abi.py mirrors it as numpy dtypes; tests/sidecar/test_abi.py compiles this file and holds
 * both to the same names, offsets and sizes.
 *
 * Times are nanoseconds of CLOCK_BOOTTIME. Every record is a multiple of 8 bytes long without holes, so
 * that a ring buffer full of them is one strided array.
 */
#ifndef FLOWLAKE_H
#define FLOWLAKE_H

#define FLOWLAKE_COMM_LEN 16 /* TASK_COMM_LEN, include/linux/sched.h */
#define FLOWLAKE_ADDR_LEN 16 /* IPv6, or IPv4 mapped into IPv6 (RFC 4291, 2.5.5.2) */
#define FLOWLAKE_PATH_LEN 320 /* kubepods.slice paths reach about 250 */

/* How the owner of a socket is known: the lake's `owner_source`. */
enum flowlake_owner {
	OWNER_UNKNOWN = 0,
	OWNER_LISTENER = 1, /* inherited by an accepted socket, until its reader or closer is seen */
	OWNER_ITERATOR = 2, /* found in a process's open files when the probe started */
	OWNER_CONNECT = 3,
	OWNER_READ = 4,
	OWNER_CLOSE = 5,
};

/* What the local end is: the lake's `role`. */
enum flowlake_role {
	ROLE_UNKNOWN = 0,
	ROLE_CLIENT = 1,
	ROLE_SERVER = 2,
};

/* Facts about one record; the close reason is decided from them in user space. */
enum flowlake_flag {
	FLAG_FINAL = 1 << 0, /* the record that closed the connection */
	FLAG_PARTIAL = 1 << 1, /* the connection is older than the probe */
	FLAG_ESTABLISHED = 1 << 2, /* reached ESTABLISHED at some time */
	FLAG_PEER_FIN = 1 << 3, /* the peer's FIN was received in order */
	FLAG_FIN_SENT = 1 << 4, /* our FIN was queued */
	FLAG_FIN_ACKED = 1 << 5, /* our FIN was acknowledged */
	FLAG_SOCK_DONE = 1 << 6, /* SOCK_DONE, include/net/sock.h */
	FLAG_SOCK_DEAD = 1 << 7, /* SOCK_DEAD: no process holds it */
	FLAG_NO_SOCKET = 1 << 8, /* sk->sk_socket is NULL: orphaned, or never accepted */
	FLAG_RST_RECEIVED = 1 << 9, /* tcp:tcp_receive_reset fired */
	FLAG_MPTCP = 1 << 10, /* a subflow of an MPTCP connection */
	FLAG_HALF_OPEN = 1 << 11, /* a request that was never completed; swept up by its age */
	FLAG_USER_TIMEOUT = 1 << 12, /* icsk_user_timeout is set */
	FLAG_KEEPALIVE = 1 << 13, /* SO_KEEPALIVE is on */
	FLAG_IN_PROCESS = 1 << 14, /* the last transition ran in a process's own call */
	FLAG_HAS_TIMEOUTS = 1 << 15, /* this kernel counts tp->total_rto */
	FLAG_ACCEPTED = 1 << 16, /* server: a process has taken it from the accept queue */
	FLAG_ZERO_WINDOW = 1 << 17, /* the peer's window was closed and probes were under way */
};

/* One connection over one interval. Counters are for the interval, gauges as at end_ns. */
struct flow_record {
	__u64 start_ns;
	__u64 end_ns;
	__u64 opened_ns; /* when the connection began; 0: before the probe */
	__u64 last_retransmit_ns; /* 0: none in this interval */
	__u64 cookie; /* of the socket; kept when the socket connects again */
	__u64 netns; /* cookie of the network namespace; its inode where the kernel has none */
	__u64 cgroup; /* cgroup v2 id of the owner */
	__u64 cgroup_v1; /* its id in the v1 hierarchy named by the settings; 0: none */
	__u64 bytes_sent; /* acknowledged payload, SYN and FIN taken out */
	__u64 bytes_received; /* payload received in order, read or not, FIN taken out */
	__u64 bytes_retransmitted;
	__u64 bytes_unread; /* final: left in the receive queue */
	__u64 bytes_unacked; /* final: sent and never acknowledged */
	__u64 busy_jiffies; /* tp->chrono_stat, the running one added */
	__u64 rwnd_limited_jiffies;
	__u64 sndbuf_limited_jiffies;
	__u32 generation; /* how often this socket began a connection before */
	__u32 sequence; /* of this record within (cookie, generation) */
	__u32 packets_sent; /* data segments, retransmissions included */
	__u32 packets_received;
	__u32 retransmits; /* without the handshake's */
	__u32 syn_retransmits;
	__u32 segs_out; /* of the whole connection: 0 when not even a SYN left */
	__u32 connect_us; /* 0xffffffff: unknown */
	__u32 srtt_eighths_us; /* 0: no sample */
	__u32 rtt_min_us; /* 0xffffffff: no sample */
	__u32 mdev_quarters_us;
	__u32 reordered; /* tp->reord_seen */
	__u32 dsack_dups;
	__u32 timeouts; /* tp->total_rto where FLAG_HAS_TIMEOUTS */
	__u32 pid; /* tgid of the owner; 0: unknown */
	__u32 flags; /* enum flowlake_flag */
	__s32 error; /* sk_err, as a positive errno */
	__s32 soft_error; /* sk_err_soft: what ICMP reported meanwhile */
	__u16 local_port;
	__u16 remote_port;
	__u8 state; /* final: the state before CLOSE */
	__u8 role; /* enum flowlake_role */
	__u8 owner_source; /* enum flowlake_owner */
	__u8 pad;
	__u8 local_address[FLOWLAKE_ADDR_LEN];
	__u8 remote_address[FLOWLAKE_ADDR_LEN];
	char comm[FLOWLAKE_COMM_LEN]; /* of the thread group's leader */
};

/* A listening socket as it is now: written by an iterator on each walk. */
struct listener_record {
	__u64 cookie;
	__u64 netns;
	__u64 cgroup;
	__u64 cgroup_v1;
	__u32 pid;
	__u32 accept_queue; /* sk_ack_backlog */
	__u32 accept_queue_max; /* sk_max_ack_backlog */
	__u32 drops; /* sk_drops, since the socket began: SYNs and ACKs it could not take */
	__u16 port;
	__u8 owner_source;
	__u8 pad[5];
	__u8 address[FLOWLAKE_ADDR_LEN];
	char comm[FLOWLAKE_COMM_LEN];
};

/* A cgroup at the moment of its creation, so that one which lives for milliseconds has a name. */
struct cgroup_record {
	__u64 id;
	__u32 hierarchy; /* 0: cgroup v2 */
	__u32 pad;
	char path[FLOWLAKE_PATH_LEN];
};

/* Indices of the per-CPU array `counters`. */
enum flowlake_counter {
	COUNTER_CAPTURED = 0, /* records that were to leave the kernel, lost ones included */
	COUNTER_LOST_FINAL = 1, /* the ring of final records was full */
	COUNTER_LOST_INTERIM = 2, /* the ring of interim records was full: the next one carries the deltas */
	COUNTER_LOST_HALF_OPEN = 3, /* the table of half-open handshakes was full */
	COUNTER_LOST_STORAGE = 4, /* no memory for a socket's state */
	COUNTER_LOST_CGROUP = 5, /* the ring of cgroups was full: a name may be missing, never a flow */
	COUNTER_HALF_OPEN = 6, /* handshakes whose SYN-ACK had to be repeated */
	COUNTER_MAX = 7,
};

#endif
