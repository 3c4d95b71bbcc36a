// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The probe. One source, two objects: flowlake.bpf.o reads typed pointers (tp_btf) and has iterators; with
 * -DFLOWLAKE_RAW flowlake_raw.bpf.o uses raw tracepoints, for kernels where the first does not load: it knows final
 * records only, neither interims, listeners, half-open handshakes nor sockets older than itself.
 *
 * Only tracepoints and iterators: they are stable, and kprobes are not. The ABI is flowlake.h.
 */
#include "conn.h"
#include "lifecycle.h"
#ifndef FLOWLAKE_RAW
#include "cgroups.h"
#include "existing.h"
#include "half_open.h"
#include "walk.h"
#endif

/* The kernel accepts GPL here; the source is under either licence named above. */
char LICENSE[] SEC("license") = "GPL";

/*
 * Twice the same, because the kernel leaves a program out when its CPU is in the middle of it already: a transition in
 * softirq that interrupts one in a process would go unseen (__bpf_trace_run, kernel/trace/bpf_trace.c). Whichever of
 * the two is not interrupted handles it; the other finds the state recorded and returns.
 */
TRACEPOINT("inet_sock_set_state")
int BPF_PROG(set_state, struct sock *sk, int old_state, int new_state)
{
	return on_transition(sk, old_state, new_state, false);
}

TRACEPOINT("inet_sock_set_state")
int BPF_PROG(set_state_again, struct sock *sk, int old_state, int new_state)
{
	return on_transition(sk, old_state, new_state, true);
}

/* Also fires for what could not leave the host, as total_retrans counts it. 6.18 has a third argument: the error. */
TRACEPOINT("tcp_retransmit_skb")
int BPF_PROG(retransmit_skb, struct sock *sk)
{
	struct conn *conn = find_conn(sk);

	if (conn)
		conn->last_retransmit_ns = bpf_ktime_get_boot_ns();
	return 0;
}

TRACEPOINT("tcp_receive_reset")
int BPF_PROG(receive_reset, struct sock *sk)
{
	struct conn *conn = find_conn(sk);

	if (conn)
		conn->flags |= FLAG_RST_RECEIVED;
	return 0;
}

/* Runs on every recvmsg that returned data: the first one by an accepted socket's process tells who that is. */
TRACEPOINT("tcp_rcv_space_adjust")
int BPF_PROG(rcv_space_adjust, struct sock *sk)
{
	struct conn *conn = find_conn(sk);

	if (!conn || !unclaimed(conn) || !current_uses(sk))
		return 0;
	own(conn, current_task(), OWNER_READ);
	conn->flags |= FLAG_ACCEPTED;
	return 0;
}

#ifdef FLOWLAKE_RAW

TRACEPOINT("tcp_destroy_sock")
int BPF_PROG(destroy_sock, struct sock *sk)
{
	__u64 key = (__u64)sk;

	bpf_map_delete_elem(&conns, &key);
	return 0;
}

#else

SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(retransmit_synack, struct sock *listener, struct request_sock *request)
{
	return on_repeated_synack(listener, request);
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_mkdir, struct cgroup *cgroup, const char *path)
{
	return on_cgroup(cgroup, path);
}

SEC("iter/bpf_sk_storage_map")
int walk(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock *sk = ctx->sk;
	struct conn *conn;

	if (!sk)
		return 0;
	conn = find_conn(sk);
	if (!conn || !conn->state || conn->state == BPF_TCP_CLOSE || conn->walk == walk_number)
		return 0;
	if (conn->state == BPF_TCP_LISTEN) {
		if (write_listener(sk, conn))
			return 1;
	} else {
		/* Not a child without its cookie yet, which is not yet a connection either. */
		if ((conn->state != BPF_TCP_SYN_RECV || conn->active) && write_interim(sk, conn))
			return 1;
		count(COUNTER_WALKED);
	}
	conn->walk = walk_number;
	return 0;
}

SEC("iter/task_file")
int adopt_listeners(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;

	return task && file ? adopt_file(task, file, true) : 0;
}

SEC("iter/task_file")
int adopt_connections(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;

	return task && file ? adopt_file(task, file, false) : 0;
}

SEC("iter/tcp")
int adopt_orphans(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;

	return common ? adopt_orphan(common) : 0;
}

#endif
