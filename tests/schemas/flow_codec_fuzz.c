// SPDX-License-Identifier: Apache-2.0
/*
 * The codec, built with sanitizers, over thousands of damaged messages: `fuzz FILE ROUNDS`. The file is what
 * test_sanitizers.py writes: struct plan, the fields, the columns' widths, the array of flows. Buffers are as small as
 * the codec allows, each of its own, so that a byte read or written beyond one ends the program. What can be read is
 * written again, and must be read as the same.
 */
#include <stdio.h>
#include <stdlib.h>

#include "flow_codec.c"

struct plan {
	int64_t field_count;
	int64_t least_row;
	int64_t longest_row;
	int64_t room;
	int64_t length;
};

static uint64_t state = 20261122;

/* xorshift64: https://www.jstatsoft.org/article/view/v008i14 */
static uint64_t chance(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % below;
}

static void *taken(FILE *file, size_t bytes)
{
	void *memory = malloc(bytes);

	if (!memory || fread(memory, 1, bytes, file) != bytes)
		exit(2);
	return memory;
}

static int64_t damage(uint8_t *bytes, int64_t length)
{
	static const uint8_t nasty[] = { 0, 1, 2, 3, 0x7f, 0x80, 0xfe, 0xff };
	uint64_t times = chance(6);

	if (!chance(8))
		for (int64_t i = 0; i < length; i++)
			bytes[i] = (uint8_t)chance(256);
	for (uint64_t i = 0; i < times; i++)
		bytes[chance(length)] = chance(2) ? nasty[chance(sizeof(nasty))] : (uint8_t)chance(256);
	if (!chance(3) && length > 40) {
		/* A long varint where none should be: as a count, or in the middle. */
		int64_t at = chance(2) ? 0 : (int64_t)chance(length - 10);

		memset(bytes + at, 0xff, chance(11));
	}
	return chance(3) ? length : 1 + (int64_t)chance(length);
}

int main(int argc, char **argv)
{
	FILE *file = argc == 3 ? fopen(argv[1], "rb") : NULL;
	struct plan *plan;
	struct field *fields;
	int64_t *widths, *most, good = 0, bad = 0;
	uint8_t *original;
	struct target *targets;
	struct source *sources;

	if (!file)
		return 2;
	plan = taken(file, sizeof(*plan));
	fields = taken(file, plan->field_count * sizeof(*fields));
	widths = taken(file, plan->field_count * sizeof(*widths));
	original = taken(file, plan->length);
	fclose(file);

	most = malloc(plan->field_count * sizeof(*most));
	targets = calloc(plan->field_count, sizeof(*targets));
	sources = calloc(plan->field_count, sizeof(*sources));
	for (int64_t i = 0; i < plan->field_count; i++) {
		most[i] = fields[i].most;
		targets[i].values = malloc(plan->room * widths[i] + WORD_BYTES);
		targets[i].valid = fields[i].nullable ? malloc(plan->room) : NULL;
		targets[i].width = widths[i];
		sources[i].values = targets[i].values;
		sources[i].stride = widths[i];
		sources[i].item = widths[i] == 1 ? ITEM_U8 : widths[i] == 4 ? ITEM_I32 : ITEM_I64;
	}
	for (long round = atol(argv[2]); round > 0; round--) {
		uint8_t *whole = malloc(plan->length), *message;
		struct failure failure;
		int64_t length, rows;

		memcpy(whole, original, plan->length);
		length = round % 16 ? damage(whole, plan->length) : plan->length;
		message = malloc(length);
		memcpy(message, whole, length);
		rows = flow_codec_decode(fields, plan->field_count, plan->least_row, most, message, 0, length, targets,
					 0, plan->room, &failure);
		free(whole);
		free(message);
		if (rows < 0) {
			if (failure.code <= FINE || failure.code > NO_ROOM || failure.field >= plan->field_count ||
			    failure.offset < 0 || failure.offset > length)
				return 3;
			bad++;
			continue;
		}
		good++;
		for (int64_t pass = 0; pass < 2; pass++) {
			/* Without the word of slack there is no room, and that is said. */
			int64_t room = rows * plan->longest_row + (pass ? WORD_BYTES : 0);
			uint8_t *out = malloc(room ? room : 1);
			int64_t written;

			for (int64_t i = 0; i < plan->field_count; i++)
				sources[i].mask = NULL;
			written = flow_codec_encode(fields, plan->field_count, sources, rows, plan->longest_row, out,
						    room, &failure);
			if (written < 0 && failure.code != NO_ROOM)
				return 4;
			if (pass && written < rows * plan->least_row)
				return 5;
			free(out);
		}
	}
	printf("%lld %lld\n", (long long)good, (long long)bad);
	return 0;
}
