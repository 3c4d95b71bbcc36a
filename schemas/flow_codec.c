// SPDX-License-Identifier: Apache-2.0
/*
 * Flows between columns and Avro's binary encoding, as tables of fields describe them: arrays in, arrays out.
 * https://avro.apache.org/docs/1.12.0/specification/#binary-encoding
 *
 * Called through ctypes by schemas/native.py, which mirrors the structs; a change of them is a change of
 * flow_codec_version. What is decoded comes from anywhere: no byte is read before it is known to be there, and no row
 * is written that the caller has no room for. Numbers may stand at any address; hosts are little endian.
 *
 * A short number is one branch; a longer one is spread over the bytes of a word, or gathered from it, 7 bits each, all
 * at once, without a loop whose length nobody could predict.
 */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the codec stores words as Avro has their bytes: on little-endian hosts only"
#endif

#define CONTINUED 0x8080808080808080ull /* in each byte: another one follows */
#define WORD_BYTES 8
#define ADDRESS_BYTES 16

const int32_t flow_codec_version = 1;

enum field_kind { KIND_BOOLEAN, KIND_NUMBER, KIND_ADDRESS };

/* Types of columns to be encoded: ITEMS in native.py. */
enum item { ITEM_U8, ITEM_I8, ITEM_U16, ITEM_I16, ITEM_U32, ITEM_I32, ITEM_I64 };

/* Why not: Failure in native.py says it in words. */
enum failure_code {
	FINE,
	OUT_OF_RANGE, /* a number, an enum's code, a boolean, an index into a list of the header */
	NO_BRANCH, /* a union's index other than null and the type */
	BAD_VARINT, /* more bytes than its type can need */
	CUT_OFF,
	TOO_MANY, /* records announced than bytes could hold */
	BAD_SIZE, /* of a block, which is not where its records end */
	LEFT_OVER, /* bytes behind the end of the array */
	NO_ROOM, /* in the caller's buffer */
};

/* A field of the record. A nullable one is the union [null, type]. */
struct field {
	int64_t least; /* of a number */
	int64_t most;
	int32_t kind;
	int32_t nullable;
	int32_t longest; /* bytes of a number's varint */
	int32_t pad;
};

/* What to encode: row i is at values + i * stride. Where mask is not NULL, a byte other than 0 is a null. */
struct source {
	const uint8_t *values;
	int64_t stride;
	const uint8_t *mask;
	int64_t mask_stride;
	int64_t item; /* enum item; of addresses, 16 neighbouring bytes */
};

/* Where to put what is decoded: row i at values + i * width. valid: a byte per row, NULL where nothing can be null. */
struct target {
	uint8_t *values;
	uint8_t *valid;
	int64_t width; /* bytes: 1, 4 or 8 of a number, 1 of a boolean, 16 of an address */
};

struct failure {
	int32_t code;
	int32_t field; /* -1: none */
	int64_t offset; /* where encoding the row, where decoding the byte of the message */
};

/* The number at `at`. */
static inline __attribute__((always_inline)) int64_t load(const uint8_t *at, int64_t item)
{
	uint16_t two;
	uint32_t four;
	int64_t eight;

	switch (item) {
	case ITEM_U8:
		return *at;
	case ITEM_I8:
		return (int8_t)*at;
	case ITEM_U16:
		memcpy(&two, at, sizeof(two));
		return two;
	case ITEM_I16:
		memcpy(&two, at, sizeof(two));
		return (int16_t)two;
	case ITEM_U32:
		memcpy(&four, at, sizeof(four));
		return four;
	case ITEM_I32:
		memcpy(&four, at, sizeof(four));
		return (int32_t)four;
	default:
		memcpy(&eight, at, sizeof(eight));
		return eight;
	}
}

/* The low 56 bits over the 8 bytes of a word, 7 in each, the lowest first. */
static inline uint64_t spread(uint64_t raw)
{
	raw = (raw & 0x000000000fffffff) | (raw << 4 & 0x0fffffff00000000);
	raw = (raw & 0x00003fff00003fff) | (raw << 2 & 0x3fff00003fff0000);
	return (raw & 0x007f007f007f007f) | (raw << 1 & 0x7f007f007f007f00);
}

static inline uint64_t gather(uint64_t word)
{
	word = (word & 0x007f007f007f007f) | (word & 0x7f007f007f007f00) >> 1;
	word = (word & 0x00003fff00003fff) | (word & 0x3fff00003fff0000) >> 2;
	return (word & 0x000000000fffffff) | (word & 0x0fffffff00000000) >> 4;
}

static inline uint64_t zigzag(int64_t value)
{
	return (uint64_t)value << 1 ^ (uint64_t)(value >> 63);
}

static inline int64_t unzigzag(uint64_t raw)
{
	return (int64_t)(raw >> 1 ^ -(raw & 1));
}

/* Writes up to 10 bytes, and may touch 8 from `out` on. Returns what is behind the number. */
static inline uint8_t *put_varint(uint8_t *out, uint64_t raw)
{
	uint64_t word;
	uint64_t high = raw >> 56;
	int more;

	if (raw < 0x80) {
		*out = (uint8_t)raw;
		return out + 1;
	}
	word = spread(raw);
	if (high) {
		word |= CONTINUED;
		memcpy(out, &word, WORD_BYTES);
		out[8] = (uint8_t)high;
		if (high < 0x80)
			return out + 9;
		out[9] = 1;
		return out + 10;
	}
	more = (63 - __builtin_clzll(raw)) / 7; /* bytes behind the first: 1 to 7 */
	word |= CONTINUED >> (64 - 8 * more);
	memcpy(out, &word, WORD_BYTES);
	return out + more + 1;
}

/* get_varint() byte by byte, for the last few of a message. */
static __attribute__((noinline)) const uint8_t *get_varint_slowly(const uint8_t *at, const uint8_t *end, int longest,
								  uint64_t *raw, int32_t *code)
{
	*raw = 0;
	for (int i = 0; i < longest; i++) {
		if (at == end) {
			*code = CUT_OFF;
			return NULL;
		}
		if (i == 9 && *at > 1)
			break;
		*raw |= (uint64_t)(*at & 0x7f) << 7 * i;
		if (*at++ < 0x80)
			return at;
	}
	*code = BAD_VARINT;
	return NULL;
}

/* The number at `at`; returns what is behind it, or NULL and why where there is none of at most `longest` bytes. */
static inline __attribute__((always_inline)) const uint8_t *get_varint(const uint8_t *at, const uint8_t *end,
								       int longest, uint64_t *raw, int32_t *code)
{
	uint64_t word, last;
	int bytes;

	if (at < end && *at < 0x80) {
		*raw = *at;
		return at + 1;
	}
	if (end - at < 10) {
		uint64_t number;

		at = get_varint_slowly(at, end, longest, &number, code);
		*raw = number;
		return at;
	}
	memcpy(&word, at, sizeof(word));
	last = ~word & CONTINUED;
	if (last) {
		/* All bits up to the first byte that no other one follows. */
		*raw = gather(word & (last ^ (last - 1)));
		bytes = __builtin_ctzll(last) / 8 + 1;
	} else if (at[8] < 0x80) {
		*raw = gather(word) | (uint64_t)at[8] << 56;
		bytes = 9;
	} else {
		*raw = gather(word) | (uint64_t)(at[8] & 0x7f) << 56 | (uint64_t)at[9] << 63;
		bytes = at[9] > 1 ? 11 : 10;
	}
	if (bytes > longest) {
		*code = BAD_VARINT;
		return NULL;
	}
	return at + bytes;
}

static int64_t failed(struct failure *failure, int32_t code)
{
	failure->code = code;
	return -1;
}

/* One field's value behind `out`; NULL where its type cannot hold it. */
static inline __attribute__((always_inline)) uint8_t *encode_field(uint8_t *out, const struct field *field,
								   const struct source *source, int64_t row)
{
	const uint8_t *at = source->values + row * source->stride;
	int64_t value;

	if (field->nullable) {
		if (source->mask && source->mask[row * source->mask_stride]) {
			*out = 0;
			return out + 1;
		}
		*out++ = 2; /* zig-zag of 1 */
	}
	if (field->kind == KIND_ADDRESS) {
		memcpy(out, at, ADDRESS_BYTES);
		return out + ADDRESS_BYTES;
	}
	value = load(at, source->item);
	if (value < field->least || value > field->most)
		return NULL;
	if (field->kind == KIND_BOOLEAN) {
		*out = (uint8_t)value;
		return out + 1;
	}
	return put_varint(out, zigzag(value));
}

/*
 * The concatenated encodings of `rows` records into out[room]; returns their length, or -1 with the failure filled in.
 * longest_row: bytes that any row can need. The room is that for every row, and a word.
 */
int64_t flow_codec_encode(const struct field *fields, int64_t field_count, const struct source *sources, int64_t rows,
			  int64_t longest_row, uint8_t *out, int64_t room, struct failure *failure)
{
	uint8_t *at = out;

	for (int64_t row = 0; row < rows; row++) {
		if (out + room - at < longest_row + WORD_BYTES) {
			*failure = (struct failure){ NO_ROOM, -1, row };
			return -1;
		}
		for (int64_t i = 0; i < field_count; i++) {
			at = encode_field(at, &fields[i], &sources[i], row);
			if (!at) {
				*failure = (struct failure){ OUT_OF_RANGE, (int32_t)i, row };
				return -1;
			}
		}
	}
	return at - out;
}

/* One field's value; returns what is behind it, or NULL and why. */
static inline __attribute__((always_inline)) const uint8_t *decode_field(const uint8_t *at, const uint8_t *end,
									 const struct field *field, int64_t most,
									 const struct target *target, int64_t row,
									 int32_t *code)
{
	uint64_t raw;
	int64_t value = 0;

	if (field->nullable) {
		uint8_t branch;

		if (at == end)
			goto cut_off;
		branch = *at++;
		if (branch & ~2) {
			*code = NO_BRANCH;
			return NULL;
		}
		target->valid[row] = branch >> 1;
		if (!branch)
			goto store;
	}
	if (field->kind == KIND_NUMBER) {
		at = get_varint(at, end, field->longest, &raw, code);
		if (!at)
			return NULL;
		value = unzigzag(raw);
	} else if (field->kind == KIND_BOOLEAN) {
		if (at == end)
			goto cut_off;
		value = *at++;
	} else {
		if (end - at < ADDRESS_BYTES)
			goto cut_off;
		memcpy(target->values + row * ADDRESS_BYTES, at, ADDRESS_BYTES);
		return at + ADDRESS_BYTES;
	}
	if (value < field->least || value > most) {
		*code = OUT_OF_RANGE;
		return NULL;
	}
store:
	/* What it writes beyond its width, the next row overwrites. */
	memcpy(target->values + row * target->width, &value, sizeof(value));
	return at;

cut_off:
	*code = CUT_OFF;
	return NULL;
}

/* Rows first to next; returns what is behind them, or NULL with the failure filled in; its offset was that of `at`. */
static inline __attribute__((always_inline)) const uint8_t *
decode_rows(const uint8_t *at, const uint8_t *end, const struct field *fields, int64_t field_count, const int64_t *most,
	    const struct target *targets, int64_t first, int64_t next, struct failure *failure)
{
	const uint8_t *block = at;

	for (int64_t row = first; row < next; row++) {
		for (int64_t i = 0; i < field_count; i++) {
			const uint8_t *behind;

			behind = decode_field(at, end, &fields[i], most[i], &targets[i], row, &failure->code);
			if (!behind) {
				failure->field = (int32_t)i;
				failure->offset += at - block;
				return NULL;
			}
			at = behind;
		}
	}
	return at;
}

/*
 * The flows of a message, of which they are the end: bytes[start] to bytes[length - 1]. Returns how many rows were put
 * into the targets from row `first` on, at most `room`; or -1 with the failure filled in, and those rows are waste.
 * most: of each field, in place of its own, since indices are bounded by the message's lists.
 * targets: each has room for a word behind its last row.
 *
 * An array is blocks of a count and its records, ended by a count of zero; where the count is negative, the block's
 * length in bytes stands behind it.
 */
int64_t flow_codec_decode(const struct field *fields, int64_t field_count, int64_t least_row, const int64_t *most,
			  const uint8_t *bytes, int64_t start, int64_t length, const struct target *targets,
			  int64_t first, int64_t room, struct failure *failure)
{
	const uint8_t *at = bytes + start, *end = bytes + length, *behind;
	int64_t row = first;

	*failure = (struct failure){ FINE, -1, start };
	for (;;) {
		const uint8_t *block_end = end;
		uint64_t raw, count;
		int64_t announced;

		failure->offset = at - bytes;
		behind = get_varint(at, end, 10, &raw, &failure->code);
		if (!behind)
			return -1;
		at = behind;
		announced = unzigzag(raw);
		if (!announced)
			break;
		count = announced < 0 ? -(uint64_t)announced : (uint64_t)announced;
		if (announced < 0) {
			behind = get_varint(at, end, 10, &raw, &failure->code);
			if (!behind)
				return -1;
			at = behind;
			if (raw & 1 || raw >> 1 > (uint64_t)(end - at))
				return failed(failure, BAD_SIZE);
			block_end = at + (raw >> 1);
		}
		if (count > (uint64_t)(block_end - at) / (uint64_t)least_row)
			return failed(failure, TOO_MANY);
		if (count > (uint64_t)(first + room - row))
			return failed(failure, NO_ROOM);
		failure->offset = at - bytes;
		at = decode_rows(at, block_end, fields, field_count, most, targets, row, row + (int64_t)count, failure);
		if (!at)
			return -1;
		if (announced < 0 && at != block_end)
			return failed(failure, BAD_SIZE);
		row += (int64_t)count;
	}
	if (at != end)
		return failed(failure, LEFT_OVER);
	return row - first;
}
