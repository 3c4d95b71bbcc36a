/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * How a field of the kernel is read. A tp_btf program or an iterator holds pointers whose types the verifier
 * knows and dereferences them; a raw tracepoint holds bare numbers and asks the helper that survives a fault.
 */
#ifndef FLOWLAKE_READ_H
#define FLOWLAKE_READ_H

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "kernel_types.h"

#ifdef FLOWLAKE_RAW
#define READ(pointer, field) BPF_CORE_READ(pointer, field)
#define READ_BITFIELD(pointer, field) BPF_CORE_READ_BITFIELD_PROBED(pointer, field)
#define TRACEPOINT(name) SEC("raw_tp/" name)
#else
#define READ(pointer, field) ((pointer)->field)
#define READ_BITFIELD(pointer, field) BPF_CORE_READ_BITFIELD(pointer, field)
#define TRACEPOINT(name) SEC("tp_btf/" name)
#endif

#define FAMILY(sk) READ(sk, __sk_common.skc_family)

/* inet_sock_set_state also fires for SCTP and DCCP, and a file may be any socket. */
static __always_inline bool is_tcp(struct sock *sk)
{
	__u16 family = FAMILY(sk);

	return (family == AF_INET || family == AF_INET6) && READ(sk, sk_protocol) == IPPROTO_TCP;
}

static __always_inline struct tcp_sock *tcp_of(struct sock *sk)
{
#ifdef FLOWLAKE_RAW
	return (struct tcp_sock *)sk;
#else
	return (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
#endif
}

static __always_inline __u64 netns_of(struct sock_common *common)
{
	struct net *net = READ(common, skc_net.net);

	if (bpf_core_field_exists(net->net_cookie))
		return READ(net, net_cookie);
	return READ(net, ns.inum);
}

/* Flags that include/net/sock.h keeps as bit numbers of skc_flags. */
#define SOCK_FLAG(flags, name) (!!((flags) & (1UL << bpf_core_enum_value(enum sock_flags, name))))

/* An address as 16 bytes, whatever the family: IPv4 is mapped into IPv6. */
struct address {
	__be32 words[4];
};

static __always_inline void map_ipv4(struct address *to, __be32 ipv4)
{
	to->words[0] = 0;
	to->words[1] = 0;
	to->words[2] = bpf_htonl(0xffff);
	to->words[3] = ipv4;
}

static __always_inline void local_address(struct sock_common *common, struct address *to)
{
	if (READ(common, skc_family) == AF_INET6 && bpf_core_field_exists(common->skc_v6_rcv_saddr)) {
		to->words[0] = READ(common, skc_v6_rcv_saddr.in6_u.u6_addr32[0]);
		to->words[1] = READ(common, skc_v6_rcv_saddr.in6_u.u6_addr32[1]);
		to->words[2] = READ(common, skc_v6_rcv_saddr.in6_u.u6_addr32[2]);
		to->words[3] = READ(common, skc_v6_rcv_saddr.in6_u.u6_addr32[3]);
	} else {
		map_ipv4(to, READ(common, skc_rcv_saddr));
	}
}

static __always_inline void remote_address(struct sock_common *common, struct address *to)
{
	if (READ(common, skc_family) == AF_INET6 && bpf_core_field_exists(common->skc_v6_daddr)) {
		to->words[0] = READ(common, skc_v6_daddr.in6_u.u6_addr32[0]);
		to->words[1] = READ(common, skc_v6_daddr.in6_u.u6_addr32[1]);
		to->words[2] = READ(common, skc_v6_daddr.in6_u.u6_addr32[2]);
		to->words[3] = READ(common, skc_v6_daddr.in6_u.u6_addr32[3]);
	} else {
		map_ipv4(to, READ(common, skc_daddr));
	}
}

#endif
