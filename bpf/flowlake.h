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

#include <linux/types.h>

#define FLOWLAKE_COMM_LEN 16 /* TASK_COMM_LEN, include/linux/sched.h */
#define FLOWLAKE_ADDR_LEN 16 /* IPv6, or IPv4 mapped into IPv6 (RFC 4291, 2.5.5.2) */
#define FLOWLAKE_PATH_LEN 320 /* kubepods.slice paths reach about 250 */
#define FLOWLAKE_UNKNOWN 0xffffffff /* of connect_us and rtt_min_us: no sample */

/* How the owner of a socket is known: the lake's `owner_source`. */
enum flowlake_owner {
	OWNER_UNKNOWN = 0,
	OWNER_LISTENER = 1, /* who called listen(); inherited, until a reader or closer is seen */
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
	FLAG_RST_RECEIVED = 1 << 9, /* tcp:tcp_receive_reset fired: for an RST, or for data after a full close */
	FLAG_MPTCP = 1 << 10, /* a subflow of an MPTCP connection */
	FLAG_HALF_OPEN = 1 << 11, /* a request that was never completed; swept up by its age */
	FLAG_USER_TIMEOUT = 1 << 12, /* icsk_user_timeout is set */
	FLAG_KEEPALIVE = 1 << 13, /* SO_KEEPALIVE is on */
	FLAG_IN_PROCESS = 1 << 14, /* final: the transition to CLOSE was made by a call of a process that uses it */
	FLAG_HAS_TIMEOUTS = 1 << 15, /* this kernel counts tp->total_rto */
	FLAG_ACCEPTED = 1 << 16, /* server: a process has taken it from the accept queue */
	FLAG_ZERO_WINDOW = 1 << 17, /* unsent data waited for the peer to open its window, which was being probed */
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
	__u64 bytes_unacked; /* final: handed over by the process and never acknowledged by the peer */
	__u64 busy_jiffies; /* tp->chrono_stat, the running one added */
	__u64 rwnd_limited_jiffies;
	__u64 sndbuf_limited_jiffies;
	__u32 generation; /* how often this socket began a connection before; half-open: 0xffffffff */
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

/* A listening socket as it is now: one per walk. */
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

/* Indices of the per-CPU counters. */
enum flowlake_counter {
	COUNTER_CAPTURED = 0, /* records that were to leave the kernel through a ring, lost ones included */
	COUNTER_LOST_FINAL = 1, /* the ring of final records was full */
	COUNTER_LOST_HALF_OPEN = 2, /* the table of half-open handshakes was full */
	COUNTER_LOST_STORAGE = 3, /* no memory for a socket's state, and so nothing to say when it closed */
	COUNTER_LOST_CGROUP = 4, /* the ring of cgroups was full: a name may be missing, never a flow */
	COUNTER_DELAYED_WALK = 5, /* a ring of the walk was full: it waited to be drained */
	COUNTER_HALF_OPEN = 6, /* handshakes whose SYN-ACK had to be repeated */
	COUNTER_BEGUN = 7, /* connections whose state is kept from now on */
	COUNTER_ENDED = 8, /* of them: those that were seen to close, whether or not a record came of it */
	COUNTER_WALKED = 9, /* open connections that a walk has come by, summed over all walks */
	COUNTER_MAX = 10,
};

struct flowlake_counters {
	__u64 value[COUNTER_MAX];
};

/* A handshake whose SYN-ACK was repeated: the value of the map `half_open`, keyed by the request's cookie.
 * User space takes it out when it is overdue; its end_ns is then the moment of giving up. */
struct half_open {
	__u64 overdue_ns; /* 0: still being filled in. Later than this, no repetition can still be under way */
	struct flow_record record;
};

/* What user space decides before the programs are loaded. */
struct flowlake_settings {
	__u64 final_ring_bytes;
	__u32 jiffies_per_second; /* CONFIG_HZ */
	__s32 cgroup_v1_subsys; /* enum cgroup_subsys_id of the v1 hierarchy that names owners; -1: none */
};

#endif
