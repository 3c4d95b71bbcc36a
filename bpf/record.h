/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* One connection over one interval, as a record in a ring. */
#ifndef FLOWLAKE_RECORD_H
#define FLOWLAKE_RECORD_H

#include "totals.h"

/* How far a counter came since `base`, which moves along. Never backwards: an interim that met the socket in
 * the middle of a change held a byte back (walk.h), and the next record has it. */
#define ADVANCE(base, total)                                      \
	({                                                        \
		__typeof__(base) __from = (base), __to = (total); \
		(base) = __to > __from ? __to : __from;           \
		__to > __from ? __to - __from : 0;                \
	})

/* What does not change between the records of a connection, and the gauges. Sets every field that close_interval
 * and close_evidence leave: ring memory holds old records. */
static __always_inline void describe_record(struct flow_record *record, struct tcp_sock *tp, struct sock *sk,
					    struct conn *conn, int state, __u64 now_ns)
{
	__u32 srtt = READ(tp, srtt_us);

	record->end_ns = now_ns;
	record->opened_ns = conn->opened_ns;
	record->cookie = cookie_of(sk, conn);
	record->netns = netns_of(&sk->__sk_common);
	record->bytes_unread = 0;
	record->bytes_unacked = 0;
	record->generation = conn->generation;
	record->segs_out = READ(tp, segs_out);
	record->connect_us = conn->connect_us;
	record->srtt_eighths_us = srtt;
	record->rtt_min_us = srtt ? READ(tp, rtt_min.s[0].v) : FLOWLAKE_UNKNOWN;
	record->mdev_quarters_us = READ(tp, mdev_us);
	record->error = READ(sk, sk_err);
	record->soft_error = READ(sk, sk_err_soft);
	record->local_port = bpf_ntohs(READ(tp, inet_conn.icsk_inet.inet_sport));
	record->remote_port = bpf_ntohs(READ(sk, __sk_common.skc_dport));
	record->state = state;
	record->role = conn->role;
	record->pad = 0;
	local_address(&sk->__sk_common, (struct address *)record->local_address);
	remote_address(&sk->__sk_common, (struct address *)record->remote_address);
}

static __always_inline __u32 flags_of(struct tcp_sock *tp, struct sock *sk, const struct conn *conn, int state)
{
	unsigned long sock_flags = READ(sk, __sk_common.skc_flags);
	__u32 flags = conn->flags;

	if (SOCK_FLAG(sock_flags, SOCK_DONE))
		flags |= FLAG_SOCK_DONE | FLAG_PEER_FIN;
	if (SOCK_FLAG(sock_flags, SOCK_DEAD))
		flags |= FLAG_SOCK_DEAD;
	if (SOCK_FLAG(sock_flags, SOCK_KEEPOPEN))
		flags |= FLAG_KEEPALIVE;
	if (!READ(sk, sk_socket))
		flags |= FLAG_NO_SOCKET;
	if (fin_queued(state))
		flags |= FLAG_FIN_SENT;
	if (fin_acked(tp, state))
		flags |= FLAG_FIN_ACKED;
	if (bpf_core_field_exists(tp->is_mptcp) && READ(tp, is_mptcp))
		flags |= FLAG_MPTCP;
	if (READ(tp, inet_conn.icsk_user_timeout))
		flags |= FLAG_USER_TIMEOUT;
	if (READ(tp, inet_conn.icsk_probes_out) && !READ(tp, snd_wnd) && READ(tp, write_seq) != READ(tp, snd_nxt))
		flags |= FLAG_ZERO_WINDOW;
	if (bpf_core_field_exists(tp->total_rto))
		flags |= FLAG_HAS_TIMEOUTS;
	return flags;
}

/* What the process handed over and the peer never acknowledged, on the wire or not; the SYN and the FIN left out. */
static __always_inline __u64 payload_unacked(struct tcp_sock *tp, const struct conn *conn, int state)
{
	__u32 unacked = READ(tp, write_seq) - READ(tp, snd_una);

	if (unacked && (state == BPF_TCP_SYN_SENT || (state == BPF_TCP_SYN_RECV && conn->active)))
		unacked--;
	if (unacked && fin_queued(state))
		unacked--;
	return unacked;
}

/* What was received and not read. The FIN takes a number of its own, which copied_seq passes when a process reads
 * the end of the stream (tcp_recvmsg_locked). */
static __always_inline __u64 payload_unread(struct tcp_sock *tp, bool fin)
{
	__u32 unread = READ(tp, rcv_nxt) - READ(tp, copied_seq);

	return unread && fin ? unread - 1 : unread;
}

/* The deltas, and what must move with them. Under the lock: a record that was cut is never cut again. */
static __always_inline void cut_interval(struct flow_record *record, struct conn *conn, const struct totals *totals)
{
	struct totals *base = &conn->base;

	record->start_ns = conn->start_ns;
	conn->start_ns = record->end_ns;
	record->last_retransmit_ns = conn->last_retransmit_ns > record->start_ns ? conn->last_retransmit_ns : 0;
	record->bytes_sent = ADVANCE(base->bytes_sent, totals->bytes_sent);
	record->bytes_received = ADVANCE(base->bytes_received, totals->bytes_received);
	record->bytes_retransmitted = ADVANCE(base->bytes_retransmitted, totals->bytes_retransmitted);
	record->busy_jiffies = ADVANCE(base->busy_jiffies, totals->busy_jiffies);
	record->rwnd_limited_jiffies = ADVANCE(base->rwnd_limited_jiffies, totals->rwnd_limited_jiffies);
	record->sndbuf_limited_jiffies = ADVANCE(base->sndbuf_limited_jiffies, totals->sndbuf_limited_jiffies);
	record->packets_sent = ADVANCE(base->packets_sent, totals->packets_sent);
	record->packets_received = ADVANCE(base->packets_received, totals->packets_received);
	record->retransmits = ADVANCE(base->retransmits, totals->retransmits);
	record->syn_retransmits = ADVANCE(base->syn_retransmits, totals->syn_retransmits);
	record->reordered = ADVANCE(base->reordered, totals->reordered);
	record->dsack_dups = ADVANCE(base->dsack_dups, totals->dsack_dups);
	record->timeouts = ADVANCE(base->timeouts, totals->timeouts);
	record->sequence = conn->sequence++;
	record->cgroup = conn->owner.cgroup;
	record->cgroup_v1 = conn->owner.cgroup_v1;
	record->pid = conn->owner.pid;
	record->owner_source = conn->owner.source;
	__builtin_memcpy(record->comm, conn->owner.comm, sizeof(record->comm));
}

#endif
