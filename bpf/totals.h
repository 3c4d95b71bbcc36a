/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A connection's counters as the kernel has them, turned into payload: exact to the byte. */
#ifndef FLOWLAKE_TOTALS_H
#define FLOWLAKE_TOTALS_H

#include "conn.h"

/* States in which a FIN of ours was queued (tcp_close_state, net/ipv4/tcp.c). */
static __always_inline bool fin_queued(int state)
{
	return state == BPF_TCP_FIN_WAIT1 || state == BPF_TCP_FIN_WAIT2 || state == BPF_TCP_CLOSING ||
	       state == BPF_TCP_LAST_ACK || state == BPF_TCP_TIME_WAIT;
}

static __always_inline bool fin_acked(struct tcp_sock *tp, int state)
{
	return fin_queued(state) && READ(tp, snd_una) == READ(tp, write_seq);
}

static __always_inline bool peer_fin(struct sock *sk)
{
	return SOCK_FLAG(READ(sk, __sk_common.skc_flags), SOCK_DONE);
}

/* bytes_acked counts every acknowledged sequence number, so our SYN and our FIN as well (tcp_snd_una_update). */
static __always_inline __u64 payload_sent(__u64 acked, bool syn, bool fin)
{
	if (acked && syn)
		acked--;
	if (acked && fin)
		acked--;
	return acked;
}

/* bytes_received counts the peer's FIN (tcp_rcv_nxt_update from tcp_queue_rcv), but never its SYN. */
static __always_inline __u64 payload_received(__u64 received, bool fin)
{
	return received && fin ? received - 1 : received;
}

/* As tcp_get_info_chrono_stats does (net/ipv4/tcp.c): the running one of the three is added up to now. */
static __always_inline void read_chrono(struct tcp_sock *tp, struct totals *totals)
{
	__u32 busy = READ(tp, chrono_stat[TCP_CHRONO_BUSY - 1]);
	__u32 rwnd = READ(tp, chrono_stat[TCP_CHRONO_RWND_LIMITED - 1]);
	__u32 sndbuf = READ(tp, chrono_stat[TCP_CHRONO_SNDBUF_LIMITED - 1]);
	__u32 running = READ_BITFIELD(tp, chrono_type);

	if (running) {
		__u32 since = (__u32)bpf_jiffies64() - READ(tp, chrono_start);

		if (running == TCP_CHRONO_BUSY)
			busy += since;
		else if (running == TCP_CHRONO_RWND_LIMITED)
			rwnd += since;
		else
			sndbuf += since;
	}
	totals->busy_jiffies = busy + rwnd + sndbuf;
	totals->rwnd_limited_jiffies = rwnd;
	totals->sndbuf_limited_jiffies = sndbuf;
}

/* Everything but bytes_sent and bytes_received, whose reading depends on who may be changing them. */
static __always_inline void read_other_totals(struct tcp_sock *tp, const struct conn *conn, struct totals *totals)
{
	__u32 retransmits = READ(tp, total_retrans);
	__u64 bytes_retransmitted = READ(tp, bytes_retrans);

	totals->packets_sent = READ(tp, data_segs_out);
	totals->packets_received = READ(tp, data_segs_in);
	if (conn->flags & FLAG_ESTABLISHED) {
		totals->syn_retransmits = conn->handshake_retransmits;
		totals->retransmits = retransmits - conn->handshake_retransmits;
		totals->bytes_retransmitted = bytes_retransmitted - conn->handshake_bytes_retransmitted;
	} else {
		totals->syn_retransmits = retransmits;
		totals->retransmits = 0;
		totals->bytes_retransmitted = 0;
	}
	totals->reordered = READ(tp, reord_seen);
	totals->dsack_dups = READ(tp, dsack_dups);
	totals->timeouts = bpf_core_field_exists(tp->total_rto) ? READ(tp, total_rto) : 0;
	read_chrono(tp, totals);
}

/* For the socket's own transitions: its lock is held, so nothing moves. `state` is the one before CLOSE. */
static __always_inline void read_totals(struct tcp_sock *tp, struct sock *sk, const struct conn *conn, int state,
					struct totals *totals)
{
	totals->bytes_sent = payload_sent(READ(tp, bytes_acked), conn->active, fin_acked(tp, state));
	totals->bytes_received = payload_received(READ(tp, bytes_received), peer_fin(sk));
	read_other_totals(tp, conn, totals);
}

#endif
