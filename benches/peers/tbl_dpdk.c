// DPDK's longest-prefix-match tables behind four plain functions, for benches/tbl_peers.rs, which
// compiles and loads this file: rte_fib and rte_lpm (IPv4), rte_fib6 (IPv6), with every lookup
// method they offer.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_eal.h>
#include <rte_fib.h>
#include <rte_fib6.h>
#include <rte_lpm.h>
#include <rte_malloc.h>
#include <rte_vect.h>

enum { FIB4, LPM4, FIB6, TABLES };
enum { METHODS = 3 };

static union {
	struct rte_fib *fib4;
	struct rte_lpm *lpm4;
	struct rte_fib6 *fib6;
} tables[TABLES];

static size_t heap(void)
{
	struct rte_malloc_socket_stats stats;
	rte_malloc_get_socket_stats(0, &stats);
	return stats.heap_allocsz_bytes;
}

// Starts DPDK without huge pages and devices, on one CPU. 0 if that worked.
int start(const char *cpu, const char *megabytes)
{
	char *args[] = { "tbl", "--no-huge", "--no-pci", "-m", (char *)megabytes, "-l", (char *)cpu,
		"--no-telemetry", "--log-level=1", "--no-shconf", "--force-max-simd-bitwidth=512", NULL };
	return rte_eal_init(11, args) < 0;
}

static int create(int table, uint32_t groups, uint32_t routes)
{
	if (table == FIB4) {
		struct rte_fib_conf conf = { .type = RTE_FIB_DIR24_8, .max_routes = routes };
		conf.dir24_8.nh_sz = RTE_FIB_DIR24_8_4B;
		conf.dir24_8.num_tbl8 = groups;
		tables[table].fib4 = rte_fib_create("tbl4", 0, &conf);
	} else if (table == LPM4) {
		struct rte_lpm_config conf = { .max_rules = routes, .number_tbl8s = groups };
		tables[table].lpm4 = rte_lpm_create("tbl4", 0, &conf);
	} else {
		struct rte_fib6_conf conf = { .type = RTE_FIB6_TRIE, .max_routes = routes };
		conf.trie.nh_sz = RTE_FIB6_TRIE_4B;
		conf.trie.num_tbl8 = groups;
		tables[table].fib6 = rte_fib6_create("tbl6", 0, &conf);
	}
	return tables[table].fib4 == NULL;
}

// Fills a table; addresses are 4 bytes in host order or 16 in network order. Returns the bytes
// that it took, or 0 if it refused.
size_t tbl_fill(int table, uint32_t groups, const void *addresses, const uint8_t *lens,
		const uint32_t *values, size_t n)
{
	size_t before = heap();
	if (create(table, groups, 3 * n))
		return 0;
	for (size_t i = 0; i < n; i++) {
		const uint32_t *v4 = (const uint32_t *)addresses + i;
		uint8_t v6[16];
		int refused;
		if (table == FIB4) {
			refused = rte_fib_add(tables[table].fib4, *v4, lens[i], values[i]);
		} else if (table == LPM4) {
			refused = rte_lpm_add(tables[table].lpm4, *v4, lens[i], values[i]);
		} else {
			memcpy(v6, (const uint8_t *)addresses + 16 * i, 16);
			refused = rte_fib6_add(tables[table].fib6, v6, lens[i], values[i]);
		}
		if (refused)
			return 0;
	}
	return heap() - before;
}

// Gives a table's memory back.
void tbl_free(int table)
{
	if (table == FIB4)
		rte_fib_free(tables[table].fib4);
	else if (table == LPM4)
		rte_lpm_free(tables[table].lpm4);
	else
		rte_fib6_free(tables[table].fib6);
}

// Chooses lookup method 0, 1 or 2 and returns its name, or NULL if there is none.
const char *tbl_method(int table, int method)
{
	static const struct { const char *name; int type; } known[TABLES][METHODS] = {
		{ { "rte_fib scalar", RTE_FIB_LOOKUP_DIR24_8_SCALAR_INLINE },
		  { "rte_fib scalar macro", RTE_FIB_LOOKUP_DIR24_8_SCALAR_MACRO },
		  { "rte_fib avx512", RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512 } },
		{ { "rte_lpm bulk", 0 }, { "rte_lpm x4", 0 }, { NULL, 0 } },
		{ { "rte_fib6 scalar", RTE_FIB6_LOOKUP_TRIE_SCALAR },
		  { "rte_fib6 avx512", RTE_FIB6_LOOKUP_TRIE_VECTOR_AVX512 }, { NULL, 0 } },
	};
	if (known[table][method].name == NULL)
		return NULL;
	if (table == FIB4 && rte_fib_select_lookup(tables[table].fib4, known[table][method].type))
		return NULL;
	if (table == FIB6 && rte_fib6_select_lookup(tables[table].fib6, known[table][method].type))
		return NULL;
	return known[table][method].name;
}

// Looks up n addresses, burst a call; burst divides n and is a multiple of 4. Answers are 8 bytes each for the fibs, 4 for rte_lpm.
void tbl_lookup(int table, int method, void *addresses, void *answers, size_t n, size_t burst)
{
	for (size_t i = 0; i < n; i += burst) {
		uint32_t *v4 = (uint32_t *)addresses + i;
		if (table == FIB4) {
			rte_fib_lookup_bulk(tables[table].fib4, v4, (uint64_t *)answers + i, burst);
		} else if (table == FIB6) {
			uint8_t(*v6)[16] = (uint8_t(*)[16])addresses + i;
			rte_fib6_lookup_bulk(tables[table].fib6, v6, (uint64_t *)answers + i, burst);
		} else if (method == 0) {
			rte_lpm_lookup_bulk(tables[table].lpm4, v4, (uint32_t *)answers + i, burst);
		} else {
			for (size_t j = 0; j < burst; j += 4) {
				xmm_t four = _mm_loadu_si128((const __m128i *)(v4 + j));
				rte_lpm_lookupx4(tables[table].lpm4, four, (uint32_t *)answers + i + j, 0);
			}
		}
	}
}
