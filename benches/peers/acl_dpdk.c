// DPDK's packet classifier behind a few plain functions, for benches/acl_peers.rs, which compiles
// and loads this file: rte_acl on IPv4 5-tuples, every method, in calls of any size.

#include <arpa/inet.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <rte_acl.h>
#include <rte_eal.h>
#include <rte_malloc.h>
#include <rte_vect.h>

/* What the Rust side hands over, in host byte order; a protocol of 256 means any. */
struct rule {
	uint32_t source, destination;
	uint16_t source_port[2], destination_port[2];
	uint16_t protocol;
	uint8_t source_len, destination_len;
};
struct tuple {
	uint32_t source, destination;
	uint16_t source_port, destination_port;
	uint32_t protocol;
};

/* The packet as rte_acl reads it: the first field is one byte, the rest are words. */
struct packet {
	uint8_t protocol, pad[3];
	uint32_t source, destination;
	uint16_t source_port, destination_port;
};

enum { PROTOCOL, SOURCE, DESTINATION, SOURCE_PORT, DESTINATION_PORT, FIELDS };
RTE_ACL_RULE_DEF(acl_rule, FIELDS);

static const struct rte_acl_field_def fields[FIELDS] = {
	{ RTE_ACL_FIELD_TYPE_BITMASK, 1, PROTOCOL, 0, offsetof(struct packet, protocol) },
	{ RTE_ACL_FIELD_TYPE_MASK, 4, SOURCE, 1, offsetof(struct packet, source) },
	{ RTE_ACL_FIELD_TYPE_MASK, 4, DESTINATION, 2, offsetof(struct packet, destination) },
	{ RTE_ACL_FIELD_TYPE_RANGE, 2, SOURCE_PORT, 3, offsetof(struct packet, source_port) },
	{ RTE_ACL_FIELD_TYPE_RANGE, 2, DESTINATION_PORT, 3, offsetof(struct packet, destination_port) },
};

static const struct {
	const char *name;
	enum rte_acl_classify_alg algorithm;
} methods[] = {
	{ "scalar", RTE_ACL_CLASSIFY_SCALAR },
	{ "sse", RTE_ACL_CLASSIFY_SSE },
	{ "avx2", RTE_ACL_CLASSIFY_AVX2 },
	{ "avx512x16", RTE_ACL_CLASSIFY_AVX512X16 },
	{ "avx512x32", RTE_ACL_CLASSIFY_AVX512X32 },
};
enum { METHODS = sizeof methods / sizeof *methods };

static struct rte_acl_ctx *context;
static struct packet *packets;
static const uint8_t **pointers;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static size_t heap(void)
{
	struct rte_malloc_socket_stats stats;
	rte_malloc_get_socket_stats(0, &stats);
	return stats.heap_allocsz_bytes;
}

int start(const char *cpu, const char *megabytes)
{
	const char *arguments[] = { "acl", "--no-huge", "--no-pci", "--no-telemetry", "--no-shconf",
		"--log-level=1", "--force-max-simd-bitwidth=512", "-m", megabytes, "-l", cpu };
	int count = sizeof arguments / sizeof *arguments;
	return rte_eal_init(count, (char **)arguments) < 0 ? -1 : 0;
}

const char *acl_method(int method)
{
	return method < METHODS ? methods[method].name : NULL;
}

void acl_free(void)
{
	rte_acl_free(context);
	context = NULL;
}

/* Builds a classifier; 0 or a negative error. */
int acl_build(const struct rule *rules, size_t count, double *seconds, size_t *bytes)
{
	struct rte_acl_param parameters = { .name = "peer", .socket_id = SOCKET_ID_ANY,
		.rule_size = RTE_ACL_RULE_SZ(FIELDS), .max_rule_num = count };
	struct rte_acl_config config = { .num_categories = 1, .num_fields = FIELDS };
	struct acl_rule *list = calloc(count, sizeof *list);
	for (size_t i = 0; i < FIELDS; i++)
		config.defs[i] = fields[i];
	for (size_t i = 0; i < count; i++) {
		const struct rule *from = &rules[i];
		struct acl_rule *to = &list[i];
		to->data.category_mask = 1;
		to->data.priority = RTE_ACL_MAX_PRIORITY - (int32_t)i;
		to->data.userdata = i + 1;
		to->field[PROTOCOL].value.u8 = from->protocol & 0xff;
		to->field[PROTOCOL].mask_range.u8 = from->protocol > 0xff ? 0 : 0xff;
		to->field[SOURCE].value.u32 = from->source;
		to->field[SOURCE].mask_range.u32 = from->source_len;
		to->field[DESTINATION].value.u32 = from->destination;
		to->field[DESTINATION].mask_range.u32 = from->destination_len;
		to->field[SOURCE_PORT].value.u16 = from->source_port[0];
		to->field[SOURCE_PORT].mask_range.u16 = from->source_port[1];
		to->field[DESTINATION_PORT].value.u16 = from->destination_port[0];
		to->field[DESTINATION_PORT].mask_range.u16 = from->destination_port[1];
	}
	acl_free();
	context = rte_acl_create(&parameters);
	int status = context ? rte_acl_add_rules(context, (void *)list, count) : -1;
	free(list);
	if (status)
		return status;
	size_t before = heap();
	double started = now();
	status = rte_acl_build(context, &config);
	*seconds = now() - started;
	*bytes = heap() - before;
	return status;
}

/* Takes over the headers of the rounds that follow. */
void acl_headers(const struct tuple *tuples, size_t count)
{
	free(packets);
	free(pointers);
	packets = aligned_alloc(64, (count * sizeof *packets + 63) / 64 * 64);
	pointers = calloc(count, sizeof *pointers);
	for (size_t i = 0; i < count; i++) {
		packets[i] = (struct packet){ .protocol = tuples[i].protocol,
			.source = htonl(tuples[i].source),
			.destination = htonl(tuples[i].destination),
			.source_port = htons(tuples[i].source_port),
			.destination_port = htons(tuples[i].destination_port) };
		pointers[i] = (const uint8_t *)&packets[i];
	}
}

/* A round: CPU seconds, or a negative number when the method is not for this machine. */
double acl_round(int method, size_t batch, size_t count, uint32_t *found)
{
	double started = now();
	for (size_t i = 0; i < count; i += batch) {
		uint32_t size = count - i < batch ? count - i : batch;
		if (rte_acl_classify_alg(context, pointers + i, found + i, size, 1, methods[method].algorithm))
			return -1;
	}
	return now() - started;
}
