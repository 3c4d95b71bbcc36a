/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Handshakes that a listener answered and nobody completed. A request has no transitions and its expiry no event:
 * a repeated SYN-ACK is all that shows it. The table holds it until a child with its cookie is established, or user
 * space finds it overdue.
 */
#ifndef FLOWLAKE_HALF_OPEN_H
#define FLOWLAKE_HALF_OPEN_H

#include "counters.h"
#include "owner.h"

#define NSEC_PER_SEC 1000000000ULL
#define REQUEST_TIMEOUT_SECONDS 1 /* TCP_TIMEOUT_INIT, include/net/tcp.h */
#define RTO_MAX_SECONDS 120 /* TCP_RTO_MAX */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64); /* cookie of the request, which its child inherits */
	__type(value, struct half_open);
} half_open SEC(".maps");

static const struct half_open new_half_open;

/* Set with the first entry: until then no handshake need look for one. */
static bool half_open_seen;

/* Its child is there after all: which began with the first SYN-ACK, and needed another. */
static __always_inline void complete_half_open(struct conn *conn, __u64 cookie)
{
	struct half_open *entry;

	if (!half_open_seen)
		return;
	entry = bpf_map_lookup_elem(&half_open, &cookie);
	if (!entry)
		return;
	conn->opened_ns = entry->record.opened_ns;
	conn->start_ns = entry->record.start_ns;
	conn->last_retransmit_ns = entry->record.last_retransmit_ns;
	bpf_map_delete_elem(&half_open, &cookie);
}

/* tcp_reqsk_timeout (include/net/tcp.h) of the repetition after this one, doubled, and a second for the timer. */
static __always_inline __u64 overdue_after_ns(struct request_sock *request)
{
	__u32 repetitions = READ_BITFIELD(request, num_timeout) + 1;
	__u64 timeout_ns = REQUEST_TIMEOUT_SECONDS * NSEC_PER_SEC;

	if (bpf_core_field_exists(request->timeout) && settings.jiffies_per_second)
		timeout_ns = READ(request, timeout) * NSEC_PER_SEC / settings.jiffies_per_second;
	timeout_ns <<= repetitions & 31;
	if (repetitions > 16 || timeout_ns > RTO_MAX_SECONDS * NSEC_PER_SEC)
		timeout_ns = RTO_MAX_SECONDS * NSEC_PER_SEC;
	return 2 * timeout_ns + NSEC_PER_SEC;
}

/* Since the first SYN-ACK, by tcp_clock_us() (include/net/tcp.h). */
static __always_inline __u64 age_ns(struct request_sock *request)
{
	struct tcp_request_sock *tcp_request = (struct tcp_request_sock *)bpf_skc_to_tcp_request_sock(request);

	return tcp_request ? bpf_ktime_get_ns() - READ(tcp_request, snt_synack) * 1000 : 0;
}

static __always_inline void describe_half_open(struct flow_record *record, struct request_sock *request,
					       struct sock *listener, __u64 cookie, __u64 opened_ns)
{
	struct sock_common *common = &request->__req_common;
	struct conn *conn = find_conn(listener);

	record->opened_ns = opened_ns;
	record->start_ns = opened_ns;
	record->cookie = cookie;
	record->netns = netns_of(common);
	record->generation = FLOWLAKE_UNKNOWN;
	record->connect_us = FLOWLAKE_UNKNOWN;
	record->rtt_min_us = FLOWLAKE_UNKNOWN;
	record->flags = FLAG_FINAL | FLAG_HALF_OPEN | FLAG_NO_SOCKET;
	record->local_port = READ(common, skc_num);
	record->remote_port = bpf_ntohs(READ(common, skc_dport));
	record->state = BPF_TCP_NEW_SYN_RECV;
	record->role = ROLE_SERVER;
	local_address(common, (struct address *)record->local_address);
	remote_address(common, (struct address *)record->remote_address);
	if (!conn || !conn->owner.source)
		return;
	record->cgroup = conn->owner.cgroup;
	record->cgroup_v1 = conn->owner.cgroup_v1;
	record->pid = conn->owner.pid;
	record->owner_source = OWNER_LISTENER;
	__builtin_memcpy(record->comm, conn->owner.comm, sizeof(record->comm));
}

static __always_inline int on_repeated_synack(struct sock *listener, struct request_sock *request)
{
	__u64 cookie = READ(request, __req_common.skc_cookie.counter);
	__u64 now_ns = bpf_ktime_get_boot_ns();
	struct half_open *entry;

	/* A child of TCP fast open repeats its SYN-ACK itself, and has a record of its own. */
	if (READ(listener, __sk_common.skc_state) != BPF_TCP_LISTEN)
		return 0;
	if (!cookie)
		cookie = bpf_get_socket_cookie(request);
	entry = bpf_map_lookup_elem(&half_open, &cookie);
	if (!entry) {
		/* Only its first repetition puts it in: one that did not fit must not be counted and then found. */
		if (READ(request, num_retrans))
			return 0;
		half_open_seen = true;
		count(COUNTER_HALF_OPEN);
		if (bpf_map_update_elem(&half_open, &cookie, &new_half_open, BPF_NOEXIST)) {
			count(COUNTER_CAPTURED);
			count(COUNTER_LOST_HALF_OPEN);
			return 0;
		}
		entry = bpf_map_lookup_elem(&half_open, &cookie);
		if (!entry)
			return 0;
		describe_half_open(&entry->record, request, listener, cookie, now_ns - age_ns(request));
	}
	entry->record.syn_retransmits++;
	entry->record.segs_out = entry->record.syn_retransmits + 1;
	entry->record.last_retransmit_ns = now_ns;
	entry->overdue_ns = now_ns + overdue_after_ns(request);
	return 0;
}

#endif
