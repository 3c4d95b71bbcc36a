// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* What stands beside the probe while it is measured: a call that does nothing, and the probe's first step alone. */
#include "../bpf/conn.h"

char LICENSE[] SEC("license") = "GPL";

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(empty, struct sock *sk)
{
	return 0;
}

/* A storage of its own of the same size: found on each transition, made on the first. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(storage_only, struct sock *sk)
{
	struct conn *conn;

	if (!is_tcp(sk))
		return 0;
	conn = find_or_create_conn(sk);
	if (conn)
		conn->state = 1;
	return 0;
}
