/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What was captured and what was lost, per CPU. */
#ifndef FLOWLAKE_COUNTERS_H
#define FLOWLAKE_COUNTERS_H

#include "flowlake.h"
#include "read.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flowlake_counters);
} counters SEC(".maps");

/* Returns what this CPU had counted before. Atomic although per CPU: a softirq may interrupt a program of the same CPU between
 * its load and its store. */
static __always_inline __u64 count(enum flowlake_counter counter)
{
	__u32 zero = 0;
	struct flowlake_counters *here = bpf_map_lookup_elem(&counters, &zero);

	return here ? __sync_fetch_and_add(&here->value[counter], 1) : 0;
}

#endif
