// DPDK's rte_hash behind a few plain functions, for benches/hash_peers.rs, which compiles and loads
// this file: keys of 16 bytes, a pointer for each, CRC32.

#include <stdint.h>
#include <stdlib.h>

#include <rte_eal.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_malloc.h>

enum { KEY = 16, MOST = RTE_HASH_LOOKUP_BULK_MAX };

static struct rte_hash *table;

static size_t heap(void)
{
	struct rte_malloc_socket_stats stats;
	rte_malloc_get_socket_stats(0, &stats);
	return stats.heap_allocsz_bytes;
}

// Starts DPDK without huge pages and devices, on one CPU. 0 if that worked.
int start(const char *cpu, const char *megabytes)
{
	char *args[] = { "hash", "--no-huge", "--no-pci", "-m", (char *)megabytes, "-l", (char *)cpu,
		"--no-telemetry", "--log-level=1", "--no-shconf", NULL };
	return rte_eal_init(10, args) < 0;
}

// A new table with room for n keys and a quarter more. Returns the bytes that it took, or 0.
size_t create(uint32_t n)
{
	struct rte_hash_parameters parameters = { .name = "hash", .entries = n + n / 4,
		.key_len = KEY, .hash_func = rte_hash_crc };
	size_t before = heap();
	table = rte_hash_create(&parameters);
	return table ? heap() - before : 0;
}

void destroy(void)
{
	rte_hash_free(table);
}

// Adds n keys one by one, as the library offers; returns how many it refused.
size_t insert(const uint8_t *keys, size_t n)
{
	size_t refused = 0;
	for (size_t i = 0; i < n; i++)
		refused += rte_hash_add_key_data(table, keys + KEY * i, (void *)(i + 1)) != 0;
	return refused;
}

// Looks up n keys, `burst` a call (at most 64, which n is a multiple of). Returns how many are there.
size_t lookup(const uint8_t *keys, size_t n, size_t burst)
{
	size_t found = 0;
	for (size_t i = 0; i < n; i += burst) {
		const void *some[MOST];
		void *data[MOST];
		uint64_t hits = 0;
		for (size_t j = 0; j < burst; j++)
			some[j] = keys + KEY * (i + j);
		found += rte_hash_lookup_bulk_data(table, some, burst, &hits, data);
	}
	return found;
}
