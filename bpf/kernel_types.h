/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The few kernel types and fields that the probe reads, each under the file that defines it. Offsets come
 * from the running kernel's BTF when the object is loaded (CO-RE), so only names and kinds count here.
 */
#ifndef FLOWLAKE_KERNEL_TYPES_H
#define FLOWLAKE_KERNEL_TYPES_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#define AF_INET 2 /* include/linux/socket.h */
#define AF_INET6 10
#define IPPROTO_TCP 6 /* include/uapi/linux/in.h */
#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */
#define CGROUP_SUBSYS_MAX 16 /* CGROUP_SUBSYS_COUNT may be more: only the address of [0] is used */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/types.h */
typedef struct {
	int counter;
} atomic_t;

typedef struct {
	__s64 counter;
} atomic64_t;

/* include/linux/kernfs.h */
struct kernfs_node {
	__u64 id;
};

/* include/linux/cgroup-defs.h */
struct cgroup_root {
	int hierarchy_id;
};

struct cgroup {
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
};

struct css_set {
	struct cgroup_subsys_state *subsys[CGROUP_SUBSYS_MAX];
	struct cgroup *dfl_cgrp;
};

/* include/linux/sched.h */
struct task_struct {
	unsigned int flags;
	int tgid;
	struct task_struct *group_leader;
	struct css_set *cgroups;
	char comm[16];
};

/* include/linux/ns_common.h */
struct ns_common {
	unsigned int inum;
};

/* include/net/net_namespace.h */
struct net {
	struct ns_common ns;
	__u64 net_cookie;
};

typedef struct {
	struct net *net;
} possible_net_t;

/* include/uapi/linux/in6.h */
struct in6_addr {
	union {
		__u8 u6_addr8[16];
		__be32 u6_addr32[4];
	} in6_u;
};

/* include/net/sock.h */
struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
	unsigned long skc_flags;
};

/* include/asm-generic/qspinlock_types.h */
struct qspinlock {
	atomic_t val;
};

/* include/linux/spinlock_types_raw.h */
struct raw_spinlock {
	struct qspinlock raw_lock;
};

/* include/linux/spinlock_types.h; without `rlock` under PREEMPT_RT */
struct spinlock {
	struct raw_spinlock rlock;
};

/* include/net/sock.h */
typedef struct {
	struct spinlock slock;
	int owned;
} socket_lock_t;

struct socket;

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	atomic_t sk_drops;
	int sk_err;
	int sk_err_soft;
	__u16 sk_protocol;
	__u32 sk_ack_backlog;
	__u32 sk_max_ack_backlog;
	struct socket *sk_socket;
};

/* include/linux/net.h */
struct socket {
	struct sock *sk;
};

/* include/net/sock.h */
enum sock_flags {
	SOCK_DEAD,
	SOCK_DONE,
	SOCK_URGINLINE,
	SOCK_KEEPOPEN,
};

/* include/net/inet_hashtables.h */
struct inet_bind_bucket {
	signed char fastreuse;
};

/* include/net/inet_sock.h */
struct inet_sock {
	struct sock sk;
	__be16 inet_sport;
};

/* include/net/inet_connection_sock.h */
struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct inet_bind_bucket *icsk_bind_hash;
	__u8 icsk_probes_out;
	__u32 icsk_user_timeout;
};

/* include/linux/win_minmax.h */
struct minmax_sample {
	__u32 t;
	__u32 v;
};

struct minmax {
	struct minmax_sample s[3];
};

/* include/linux/tcp.h */
enum tcp_chrono {
	TCP_CHRONO_UNSPEC,
	TCP_CHRONO_BUSY,
	TCP_CHRONO_RWND_LIMITED,
	TCP_CHRONO_SNDBUF_LIMITED,
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u64 bytes_acked;
	__u64 bytes_received;
	__u64 bytes_retrans;
	__u32 total_retrans;
	__u32 data_segs_in;
	__u32 data_segs_out;
	__u32 segs_out;
	__u32 rcv_nxt;
	__u32 copied_seq;
	__u32 snd_nxt;
	__u32 snd_wnd;
	__u32 snd_una;
	__u32 write_seq;
	__u32 srtt_us;
	__u32 mdev_us;
	struct minmax rtt_min;
	__u32 chrono_start;
	__u32 chrono_stat[3];
	__u8 chrono_type; /* two bits of a byte on 6.1, a byte on 6.18 */
	__u32 reord_seen;
	__u32 dsack_dups;
	__u16 total_rto; /* not on 6.1 */
	bool is_mptcp;
};

/* include/net/request_sock.h */
struct request_sock {
	struct sock_common __req_common;
	__u8 num_retrans;
	__u8 num_timeout; /* seven bits of a byte */
	__u32 timeout; /* jiffies */
};

/* include/linux/tcp.h */
struct tcp_request_sock {
	__u64 snt_synack; /* the first one's time: CLOCK_MONOTONIC, microseconds */
};

struct file;

/* The contexts of iterators: kernel/bpf/task_iter.c */
struct bpf_iter__task_file {
	struct task_struct *task;
	struct file *file;
};

/* net/ipv4/tcp_ipv4.c */
struct bpf_iter__tcp {
	struct sock_common *sk_common;
};

/* net/core/bpf_sk_storage.c */
struct bpf_iter__bpf_sk_storage_map {
	struct sock *sk;
};

#pragma clang attribute pop

#endif
