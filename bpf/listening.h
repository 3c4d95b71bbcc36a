/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Who listens on which port: tells the role of a connection whose beginning was not seen. */
#ifndef FLOWLAKE_LISTENING_H
#define FLOWLAKE_LISTENING_H

#include "owner.h"

struct port {
	__u64 netns;
	__u64 number;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct port);
	__type(value, struct owner);
} listening SEC(".maps");

static __always_inline struct port local_port(struct tcp_sock *tp, struct sock *sk)
{
	struct port port = {
		.netns = netns_of(&sk->__sk_common),
		.number = READ(sk, __sk_common.skc_num),
	};

	/* Gone from skc_num by the time of CLOSE (inet_put_port). */
	if (!port.number)
		port.number = bpf_ntohs(READ(tp, inet_conn.icsk_inet.inet_sport));
	return port;
}

static __always_inline void remember_listener(struct tcp_sock *tp, struct sock *sk, const struct owner *owner)
{
	struct port port = local_port(tp, sk);

	bpf_map_update_elem(&listening, &port, owner, BPF_ANY);
}

static __always_inline struct owner *listener_on_port_of(struct tcp_sock *tp, struct sock *sk)
{
	struct port port = local_port(tp, sk);

	return bpf_map_lookup_elem(&listening, &port);
}

/*
 * A listener on its local port makes a server. A port that connect() itself picked makes a client: its bucket
 * then says fastreuse < 0 (__inet_hash_connect, net/ipv4/inet_hashtables.c). Anything else could be either.
 */
static __always_inline enum flowlake_role infer_role(struct tcp_sock *tp, struct sock *sk, int state)
{
	struct inet_bind_bucket *bucket = READ(tp, inet_conn.icsk_bind_hash);

	if (state == BPF_TCP_SYN_SENT)
		return ROLE_CLIENT;
	if (listener_on_port_of(tp, sk))
		return ROLE_SERVER;
	return bucket && READ(bucket, fastreuse) < 0 ? ROLE_CLIENT : ROLE_UNKNOWN;
}

#endif
