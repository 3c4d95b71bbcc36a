/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Which process a socket belongs to, and when `current` may be believed. */
#ifndef FLOWLAKE_OWNER_H
#define FLOWLAKE_OWNER_H

#include "conn.h"

static __always_inline struct task_struct *current_task(void)
{
#ifdef FLOWLAKE_RAW
	return (struct task_struct *)bpf_get_current_task();
#else
	return (struct task_struct *)bpf_get_current_task_btf();
#endif
}

/*
 * A process that works on a socket holds lock_sock(), and softirq leaves a socket alone while it is held
 * (sock_owned_by_user, include/net/sock.h). So `current` is a user of the socket if, and only if, it is owned;
 * anywhere else the transition runs on whoever was interrupted. Kernel threads close files and serve sockets
 * for others, so they are never an owner; io_uring's workers are threads of their process and are right.
 */
static __always_inline bool current_uses(struct sock *sk)
{
	struct task_struct *task = current_task();

	return READ(sk, sk_lock.owned) && !(READ(task, flags) & PF_KTHREAD);
}

static __always_inline void describe(struct task_struct *task, enum flowlake_owner source, struct owner *owner)
{
	struct task_struct *leader = READ(task, group_leader);
	struct css_set *cgroups = READ(leader, cgroups);
	struct cgroup *v2 = READ(cgroups, dfl_cgrp);
	struct kernfs_node *node = READ(v2, kn);
	struct cgroup_subsys_state *css = NULL;

	owner->cgroup = READ(node, id);
	owner->cgroup_v1 = 0;
	owner->pid = READ(leader, tgid);
	owner->source = source;
	bpf_probe_read_kernel(owner->comm, sizeof(owner->comm), leader->comm);
	if (settings.cgroup_v1_subsys < 0)
		return;
	bpf_probe_read_kernel(&css, sizeof(css), (void *)cgroups->subsys + settings.cgroup_v1_subsys * sizeof(css));
	owner->cgroup_v1 = BPF_CORE_READ(css, cgroup, kn, id);
}

static __always_inline void own(struct conn *conn, struct task_struct *task, enum flowlake_owner source)
{
	struct owner owner;

	describe(task, source, &owner);
	lock(conn);
	conn->owner = owner;
	unlock(conn);
}

/* No process of its own is known yet: an accepted socket has its listener's at best. */
static __always_inline bool unclaimed(const struct conn *conn)
{
	return conn->owner.source <= OWNER_LISTENER;
}

#endif
