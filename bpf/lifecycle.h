/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* From transition to transition: how a connection begins, is established, and ends. */
#ifndef FLOWLAKE_LIFECYCLE_H
#define FLOWLAKE_LIFECYCLE_H

#include "final.h"
#include "listening.h"
#ifdef FLOWLAKE_RAW
/* A request has no cookie before somebody asks for one, which a raw tracepoint cannot. */
static __always_inline void complete_half_open(struct conn *conn, __u64 cookie)
{
}
#else
#include "half_open.h"
#endif

#define NSEC_PER_USEC 1000ULL

/* Forgets what the storage held: an earlier connection of the socket, or the listener that it was cloned from. */
static __always_inline void begin(struct conn *conn, struct tcp_sock *tp, struct sock *sk, int state, __u64 now_ns)
{
	conn->opened_ns = conn->flags & FLAG_PARTIAL ? 0 : now_ns;
	conn->start_ns = now_ns;
	conn->last_retransmit_ns = 0;
	conn->sequence = 0;
	conn->connect_us = FLOWLAKE_UNKNOWN;
	conn->handshake_retransmits = 0;
	conn->handshake_bytes_retransmitted = 0;
	conn->reported_state = 0;
	conn->walk = 0;
	/* Not zero for a new connection of an old socket either: tcp_disconnect leaves chrono_stat. */
	read_totals(tp, sk, conn, state, &conn->base);
}

/* connect(), or the first data of TCP fast open. */
static __always_inline void become_client(struct conn *conn)
{
	struct owner nobody = {};

	if (conn->role)
		conn->generation++;
	conn->owner = nobody;
	conn->flags = 0;
	conn->role = ROLE_CLIENT;
	conn->active = true;
}

/* A child of a listener, with a clone of the listener's storage where that had one. */
static __always_inline void become_server(struct conn *conn)
{
	if (conn->owner.source)
		conn->owner.source = OWNER_LISTENER;
	conn->cookie = 0;
	conn->flags = 0;
	conn->role = ROLE_SERVER;
	conn->active = false;
}

/* Its beginning was not seen: counted from here on. */
static __always_inline void become_partial(struct conn *conn, struct tcp_sock *tp, struct sock *sk, int state)
{
	conn->flags = FLAG_PARTIAL;
	if (state != BPF_TCP_SYN_SENT && state != BPF_TCP_SYN_RECV)
		conn->flags |= FLAG_ESTABLISHED;
	conn->role = infer_role(tp, sk, state);
	conn->active = state == BPF_TCP_SYN_SENT;
}

/*
 * Client: since SYN_SENT. Server: the first RTT sample, SYN-ACK to ACK, which tcp_synack_rtt_meas takes just before
 * and leaves out when the SYN-ACK was repeated; its connection began that much earlier.
 */
static __always_inline void establish(struct conn *conn, struct tcp_sock *tp, struct sock *sk, __u64 now_ns)
{
	__u32 retransmits = READ(tp, total_retrans);
	__u32 srtt = READ(tp, srtt_us);

	if (conn->role == ROLE_SERVER)
		complete_half_open(conn, cookie_of(sk, conn));
	lock(conn);
	conn->handshake_retransmits = retransmits;
	conn->handshake_bytes_retransmitted = READ(tp, bytes_retrans);
	conn->flags |= FLAG_ESTABLISHED;
	if (conn->opened_ns) {
		if (conn->active) {
			conn->connect_us = (now_ns - conn->opened_ns) / NSEC_PER_USEC;
		} else if (srtt && !retransmits) {
			conn->connect_us = srtt >> 3;
			conn->opened_ns = now_ns - conn->connect_us * NSEC_PER_USEC;
			if (!conn->sequence)
				conn->start_ns = conn->opened_ns;
		}
	}
	conn->state = BPF_TCP_ESTABLISHED;
	unlock(conn);
#ifdef FLOWLAKE_RAW
	/* No clone of the listener's state here: it is found by its port. */
	if (conn->role == ROLE_SERVER && !conn->owner.source) {
		struct owner *owner = listener_on_port_of(tp, sk);

		if (owner)
			conn->owner = *owner;
	}
#endif
}

/*
 * Two ACKs of one handshake on two CPUs make two children with the same cookie; the one that comes too late to the
 * hash table is closed in SYN_RECV with its port still bound (inet_ehash_nolisten), which no other way to CLOSE does.
 */
static __always_inline bool lost_the_race(struct sock *sk, int old_state)
{
	return old_state == BPF_TCP_SYN_RECV && READ(sk, __sk_common.skc_num);
}

/* The transitions that close() or shutdown() makes, when it is a process that makes them. */
static __always_inline bool closes(int new_state)
{
	return new_state == BPF_TCP_FIN_WAIT1 || new_state == BPF_TCP_LAST_ACK || new_state == BPF_TCP_CLOSE;
}

static __always_inline int on_transition(struct sock *sk, int old_state, int new_state, bool last_chance)
{
	enum flowlake_owner claim = OWNER_UNKNOWN;
	struct tcp_sock *tp;
	struct conn *conn;
	bool born = false;
	__u64 now_ns = 0;

	if (old_state == new_state || !is_tcp(sk))
		return 0;
	conn = find_or_create_conn(sk);
	if (!conn) {
		if (last_chance && new_state == BPF_TCP_CLOSE && old_state != BPF_TCP_LISTEN) {
			count(COUNTER_CAPTURED);
			count(COUNTER_LOST_STORAGE);
		}
		return 0;
	}
	if (conn->state == new_state)
		return 0;
	tp = tcp_of(sk);
	if (!tp)
		return 0;

	if (new_state == BPF_TCP_SYN_SENT) {
		become_client(conn);
		claim = OWNER_CONNECT;
		born = true;
	} else if (old_state == BPF_TCP_LISTEN && new_state == BPF_TCP_SYN_RECV) {
		become_server(conn);
		born = true;
	} else if (new_state == BPF_TCP_LISTEN) {
		claim = OWNER_LISTENER;
	} else if (old_state != BPF_TCP_LISTEN && !conn->state) {
		become_partial(conn, tp, sk, old_state);
		born = true;
	}
	/* Between birth and end most transitions only move the state: they do not even look at the clock. */
	if (born || new_state == BPF_TCP_ESTABLISHED || new_state == BPF_TCP_CLOSE)
		now_ns = bpf_ktime_get_boot_ns();
	if (born) {
		count(COUNTER_BEGUN);
		begin(conn, tp, sk, old_state, now_ns);
	}

	if (conn->role != ROLE_CLIENT && READ(sk, sk_socket))
		conn->flags |= FLAG_ACCEPTED;
	if (unclaimed(conn) && closes(new_state))
		claim = OWNER_CLOSE;
	if (claim && current_uses(sk))
		own(conn, current_task(), claim);
	if (claim == OWNER_LISTENER)
		remember_listener(tp, sk, &conn->owner);

	if (new_state == BPF_TCP_ESTABLISHED) {
		establish(conn, tp, sk, now_ns);
	} else if (new_state == BPF_TCP_CLOSE && old_state != BPF_TCP_LISTEN && !lost_the_race(sk, old_state)) {
		if (old_state == BPF_TCP_SYN_RECV)
			complete_half_open(conn, cookie_of(sk, conn));
		write_final(tp, sk, conn, old_state, now_ns);
	} else {
		if (new_state == BPF_TCP_CLOSE && old_state != BPF_TCP_LISTEN)
			count(COUNTER_ENDED);
		conn->state = new_state;
	}
	return 0;
}

#endif
