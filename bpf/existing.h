/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Sockets that are older than the probe: their process, their role, and the baseline to count from. */
#ifndef FLOWLAKE_EXISTING_H
#define FLOWLAKE_EXISTING_H

#include "lifecycle.h"

/* The programs are attached already: a transition may adopt the same socket at the same time, and then wins. */
static __always_inline struct conn *adopt_existing(struct tcp_sock *tp, struct sock *sk, int state)
{
	struct conn *conn = find_or_create_conn(sk);
	struct conn fresh = {};
	bool adopted = false;

	if (!conn || conn->state)
		return conn;
	if (state != BPF_TCP_LISTEN) {
		become_partial(&fresh, tp, sk, state);
		begin(&fresh, tp, sk, state, bpf_ktime_get_boot_ns());
	}
	lock(conn);
	if (!conn->state) {
		conn->flags = fresh.flags;
		conn->opened_ns = fresh.opened_ns;
		conn->start_ns = fresh.start_ns;
		conn->base = fresh.base;
		conn->connect_us = fresh.connect_us;
		conn->role = fresh.role;
		conn->active = fresh.active;
		conn->state = state;
		adopted = state != BPF_TCP_LISTEN;
	}
	unlock(conn);
	if (adopted)
		count(COUNTER_BEGUN);
	return conn;
}

/* A socket in a process's table of files; with several processes the first one, which is the oldest. */
static __always_inline int adopt_file(struct task_struct *task, struct file *file, bool listeners)
{
	struct socket *socket = bpf_sock_from_file(file);
	struct tcp_sock *tp;
	struct conn *conn;
	struct sock *sk;
	int state;

	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || !is_tcp(sk))
		return 0;
	state = READ(sk, __sk_common.skc_state);
	if (state == BPF_TCP_CLOSE || (state == BPF_TCP_LISTEN) != listeners)
		return 0;
	tp = tcp_of(sk);
	if (!tp)
		return 0;
	conn = adopt_existing(tp, sk, state);
	if (!conn)
		return 0;
	if (!listeners)
		conn->flags |= FLAG_ACCEPTED;
	if (listeners ? !conn->owner.source : unclaimed(conn))
		own(conn, task, OWNER_ITERATOR);
	if (listeners)
		remember_listener(tp, sk, &conn->owner);
	return 0;
}

/* A socket that no file holds: closing in the background, or waiting to be accepted. */
static __always_inline int adopt_orphan(struct sock_common *common)
{
	struct tcp_sock *tp = (struct tcp_sock *)bpf_skc_to_tcp_sock(common);
	int state;

	if (!tp)
		return 0;
	state = READ(common, skc_state);
	if (state != BPF_TCP_CLOSE)
		adopt_existing(tp, (struct sock *)tp, state);
	return 0;
}

#endif
