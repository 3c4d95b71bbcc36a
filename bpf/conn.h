/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What the probe remembers of each TCP socket, from its first transition to its end. */
#ifndef FLOWLAKE_CONN_H
#define FLOWLAKE_CONN_H

#include "flowlake.h"
#include "read.h"

const volatile struct flowlake_settings settings SEC(".rodata.settings");

/* The process that a socket belongs to, as one value that is copied under the lock. */
struct owner {
	__u64 cgroup;
	__u64 cgroup_v1;
	__u32 pid;
	__u32 source; /* enum flowlake_owner */
	char comm[FLOWLAKE_COMM_LEN];
};

/* Counters of the whole connection; a record holds the difference of two of these. */
struct totals {
	__u64 bytes_sent;
	__u64 bytes_received;
	__u64 bytes_retransmitted;
	__u32 packets_sent;
	__u32 packets_received;
	__u32 retransmits;
	__u32 syn_retransmits;
	__u32 reordered;
	__u32 dsack_dups;
	__u32 timeouts;
	__u32 busy_jiffies;
	__u32 rwnd_limited_jiffies;
	__u32 sndbuf_limited_jiffies;
};

struct conn {
#ifndef FLOWLAKE_RAW
	struct bpf_spin_lock lock; /* of base, start_ns, sequence, state, owner: the walk writes them too */
#endif
	__u32 flags; /* enum flowlake_flag, those that stay */
	__u64 cookie; /* 0: not read yet */
	__u64 opened_ns; /* 0: before the probe */
	__u64 start_ns; /* of the interval that the next record will cover */
	__u64 last_retransmit_ns;
	struct totals base; /* at start_ns */
	struct owner owner;
	__u32 generation;
	__u32 sequence; /* of the next record */
	__u32 connect_us;
	__u32 handshake_retransmits; /* total_retrans on reaching ESTABLISHED */
	__u64 handshake_bytes_retransmitted; /* bytes_retrans then: data in the SYN of TCP fast open */
	__u8 state; /* after the last transition seen; 0: nothing known yet */
	__u8 reported_state; /* of the last interim; 0: never reported */
	__u8 role; /* enum flowlake_role */
	__u8 active; /* it began with a SYN of ours, which bytes_acked counts */
	__u32 walk; /* the last one that came by */
};

#ifdef FLOWLAKE_RAW

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64); /* the sock's address */
	__type(value, struct conn);
} conns SEC(".maps");

static const struct conn new_conn;

static __always_inline struct conn *find_conn(struct sock *sk)
{
	__u64 key = (__u64)sk;

	return bpf_map_lookup_elem(&conns, &key);
}

static __always_inline struct conn *find_or_create_conn(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct conn *conn = bpf_map_lookup_elem(&conns, &key);

	if (conn)
		return conn;
	bpf_map_update_elem(&conns, &key, &new_conn, BPF_NOEXIST);
	return bpf_map_lookup_elem(&conns, &key);
}

/* Nothing but the socket's own transitions, which the kernel serialises, touches an entry here: no walk. */
static __always_inline void lock(struct conn *conn)
{
}

static __always_inline void unlock(struct conn *conn)
{
}

/* The kernel makes a socket's cookie when it is first asked for, which a raw tracepoint cannot do. One of the
 * probe's own has the top bit set. */
static __u64 own_cookies;

static __always_inline __u64 make_cookie(struct sock *sk)
{
	__u64 cookie = READ(sk, __sk_common.skc_cookie.counter);

	return cookie ? cookie : (1ULL << 63) | __sync_fetch_and_add(&own_cookies, 1);
}

#else

/* Cloned from a listener to the sockets it accepts (sk_clone_lock, net/core/sock.c); freed with its socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct conn);
} conns SEC(".maps");

static __always_inline struct conn *find_conn(struct sock *sk)
{
	return bpf_sk_storage_get(&conns, sk, 0, 0);
}

static __always_inline struct conn *find_or_create_conn(struct sock *sk)
{
	return bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
}

static __always_inline void lock(struct conn *conn)
{
	bpf_spin_lock(&conn->lock);
}

static __always_inline void unlock(struct conn *conn)
{
	bpf_spin_unlock(&conn->lock);
}

static __always_inline __u64 make_cookie(struct sock *sk)
{
	__u64 cookie = READ(sk, __sk_common.skc_cookie.counter);

	return cookie ? cookie : bpf_get_socket_cookie(sk);
}

#endif

/* Not before a child has left SYN_RECV: inet_csk_clone_lock gives it the request's cookie only after that. */
static __always_inline __u64 cookie_of(struct sock *sk, struct conn *conn)
{
	if (!conn->cookie)
		conn->cookie = make_cookie(sk);
	return conn->cookie;
}

#endif
