/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The record that ends a connection, and the ring that it leaves through. */
#ifndef FLOWLAKE_FINAL_H
#define FLOWLAKE_FINAL_H

#include "counters.h"
#include "owner.h"
#include "record.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} finals SEC(".maps");

#define RECORDS_PER_LOOK 32 /* power of two */

/*
 * Waking the sidecar costs several times what the record does, so it comes by itself in time, and is called when half
 * of the ring is full. Even looking costs as much as a third of the record, so every 32nd of a CPU does it.
 */
static __always_inline __u64 wakeup(__u64 number)
{
	if (number % RECORDS_PER_LOOK)
		return BPF_RB_NO_WAKEUP;
	return bpf_ringbuf_query(&finals, BPF_RB_AVAIL_DATA) < settings.final_ring_bytes / 2 ? BPF_RB_NO_WAKEUP :
											       BPF_RB_FORCE_WAKEUP;
}

static __always_inline void write_final(struct tcp_sock *tp, struct sock *sk, struct conn *conn, int old_state,
					__u64 now_ns)
{
	struct flow_record *record;
	__u64 number = count(COUNTER_CAPTURED);
	struct totals totals;

	count(COUNTER_ENDED);
	record = bpf_ringbuf_reserve(&finals, sizeof(*record), 0);
	if (!record) {
		count(COUNTER_LOST_FINAL);
		conn->state = BPF_TCP_CLOSE;
		return;
	}
	read_totals(tp, sk, conn, old_state, &totals);
	describe_record(record, tp, sk, conn, old_state, now_ns);
	record->flags = FLAG_FINAL | flags_of(tp, sk, conn, old_state);
	if (current_uses(sk))
		record->flags |= FLAG_IN_PROCESS;
	if (conn->flags & FLAG_ESTABLISHED)
		record->bytes_unread = payload_unread(tp, record->flags & FLAG_PEER_FIN);
	if (record->segs_out)
		record->bytes_unacked = payload_unacked(tp, conn, old_state);
	lock(conn);
	cut_interval(record, conn, &totals);
	conn->state = BPF_TCP_CLOSE;
	unlock(conn);
	bpf_ringbuf_submit(record, wakeup(number));
}

#endif
