/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The walk over everything that has storage: interim records of open connections, and the listeners as they are. */
#ifndef FLOWLAKE_WALK_H
#define FLOWLAKE_WALK_H

#include "counters.h"
#include "record.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 << 20);
} interims SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 128 << 10); /* 1,365 listeners before the walk has to wait */
} listeners SEC(".maps");

/*
 * Which walk this is, from 1 on: set by user space, and noted in every socket that it came by. A walk that had to wait
 * finds its place again by counting, and so misses sockets if others closed meanwhile: it is repeated for those alone.
 */
volatile __u32 walk_number SEC(".data.walk") = 0;

static __u64 fence_word;

/* An atomic that returns its value is a full barrier (Documentation/bpf/standardization, linux-kernel memory model). */
static __always_inline void fence(void)
{
	__sync_fetch_and_add(&fence_word, 1);
}

/* Someone holds the socket: softirq its spin lock, or a process the lock that is `owned`. */
static __always_inline bool being_changed(struct sock *sk)
{
	if (!bpf_core_field_exists(sk->sk_lock.slock.rlock.raw_lock.val))
		return true;
	return READ(sk, sk_lock.slock.rlock.raw_lock.val.counter) || READ(sk, sk_lock.owned);
}

/*
 * The walk holds no lock of the socket, so it must not count a FIN as payload: the order of reads sees to it.
 * Sent: the state moves on before a FIN leaves, so a state read after the count knows every FIN in it.
 * Received: the count includes a FIN before tcp_fin() marks it; whoever does so holds the socket. If it is held,
 * one byte is kept back for the next record; if not, the mark is there to be read. Never too much, at times late.
 */
static __always_inline int read_moving_totals(struct tcp_sock *tp, struct sock *sk, const struct conn *conn,
					      struct totals *totals)
{
	__u64 acked = READ(tp, bytes_acked);
	__u64 received = READ(tp, bytes_received);
	bool unsure;
	int state;

	fence();
	state = *(volatile const __u8 *)&conn->state;
	unsure = being_changed(sk);
	fence();
	totals->bytes_sent = payload_sent(acked, conn->active, fin_acked(tp, state));
	totals->bytes_received = payload_received(received, unsure || peer_fin(sk));
	read_other_totals(tp, conn, totals);
	return state;
}

static __always_inline bool moved(const struct totals *base, const struct totals *now)
{
	return now->bytes_sent > base->bytes_sent || now->bytes_received > base->bytes_received ||
	       now->packets_sent > base->packets_sent || now->packets_received > base->packets_received ||
	       now->retransmits > base->retransmits || now->syn_retransmits > base->syn_retransmits ||
	       now->busy_jiffies > base->busy_jiffies || now->dsack_dups > base->dsack_dups ||
	       now->timeouts > base->timeouts || now->reordered > base->reordered;
}

/* Returns 1 to be run again on this socket, once user space has drained the ring (bpf_iter_run_prog). */
static __always_inline int write_interim(struct sock *sk, struct conn *conn)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct flow_record *record;
	struct totals totals;
	bool stale;
	int state;

	if (!tp)
		return 0;
	state = read_moving_totals(tp, sk, conn, &totals);
	if (state == BPF_TCP_CLOSE || (state == conn->reported_state && !moved(&conn->base, &totals)))
		return 0;
	record = bpf_ringbuf_reserve(&interims, sizeof(*record), 0);
	if (!record) {
		count(COUNTER_DELAYED_WALK);
		return 1;
	}
	describe_record(record, tp, sk, conn, state, bpf_ktime_get_boot_ns());
	record->flags = flags_of(tp, sk, conn, state);
	lock(conn);
	/* It went on meanwhile: what was read may belong to either state. The final, or the next walk, has it all. */
	stale = conn->state != state;
	if (!stale) {
		cut_interval(record, conn, &totals);
		conn->reported_state = state;
	}
	unlock(conn);
	if (stale) {
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
		return 0;
	}
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	count(COUNTER_CAPTURED);
	return 0;
}

static __always_inline int write_listener(struct sock *sk, struct conn *conn)
{
	struct listener_record *record = bpf_ringbuf_reserve(&listeners, sizeof(*record), 0);

	if (!record) {
		count(COUNTER_DELAYED_WALK);
		return 1;
	}
	record->cookie = cookie_of(sk, conn);
	record->netns = netns_of(&sk->__sk_common);
	record->accept_queue = READ(sk, sk_ack_backlog);
	record->accept_queue_max = READ(sk, sk_max_ack_backlog);
	record->drops = READ(sk, sk_drops.counter);
	record->port = READ(sk, __sk_common.skc_num);
	local_address(&sk->__sk_common, (struct address *)record->address);
	__builtin_memset(record->pad, 0, sizeof(record->pad));
	lock(conn);
	record->cgroup = conn->owner.cgroup;
	record->cgroup_v1 = conn->owner.cgroup_v1;
	record->pid = conn->owner.pid;
	record->owner_source = conn->owner.source;
	__builtin_memcpy(record->comm, conn->owner.comm, sizeof(record->comm));
	unlock(conn);
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

#endif
