/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A cgroup's path while it has one: a container may be gone before user space looks. */
#ifndef FLOWLAKE_CGROUPS_H
#define FLOWLAKE_CGROUPS_H

#include "counters.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 10); /* 190 cgroups between two drains */
} cgroups SEC(".maps");

static __always_inline int on_cgroup(struct cgroup *cgroup, const char *path)
{
	struct cgroup_record *record = bpf_ringbuf_reserve(&cgroups, sizeof(*record), 0);

	if (!record) {
		count(COUNTER_LOST_CGROUP);
		return 0;
	}
	record->id = cgroup->kn->id;
	record->hierarchy = cgroup->root->hierarchy_id;
	record->pad = 0;
	if (bpf_probe_read_kernel_str(record->path, sizeof(record->path), path) < 0)
		record->path[0] = 0;
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

#endif
