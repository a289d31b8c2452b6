/* Judges the packets of a pcap file by a cluster and policies:
 *
 *     cc -O2 main.c -o c-agent $(pkg-config --cflags --libs portcullis)
 *     ./c-agent CLUSTER.yaml POLICIES CAPTURE.pcap
 *
 * Prints a line for each packet that does not pass, and a summary. Exit status: 0, or 1 after an
 * error. Only what stands on this machine is needed: no interface, no root. */
#include <portcullis.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 256, LONGEST = 65536 };

/* A classic pcap file (its format is described in draft-ietf-opsawg-pcap). */
struct capture {
	FILE *file;
	int swapped;        /* written by a machine of the other byte order */
	uint64_t fraction;  /* nanoseconds in a unit of the second time field */
};

struct batch {
	struct portcullis_packet packets[BATCH];
	struct portcullis_judgement judgements[BATCH];
	uint64_t times[BATCH];
	uint8_t bytes[BATCH][LONGEST];
	size_t count;
};

static uint32_t number(const struct capture *capture, const uint8_t *at)
{
	uint32_t value;
	memcpy(&value, at, sizeof value);
	return capture->swapped ? __builtin_bswap32(value) : value;
}

static int open_capture(struct capture *capture, const char *path)
{
	uint8_t header[24];
	uint32_t magic;

	capture->swapped = 0;
	capture->file = fopen(path, "rb");
	if (!capture->file) {
		perror(path);
		return -1;
	}
	if (fread(header, sizeof header, 1, capture->file) != 1) {
		fprintf(stderr, "%s: too short for a pcap file\n", path);
		return -1;
	}
	memcpy(&magic, header, sizeof magic);
	capture->swapped = magic == 0xd4c3b2a1 || magic == 0x4d3cb2a1;
	magic = number(capture, header);
	if (magic != 0xa1b2c3d4 && magic != 0xa1b23c4d) {
		fprintf(stderr, "%s: not a pcap file (for pcapng: editcap -F pcap)\n", path);
		return -1;
	}
	capture->fraction = magic == 0xa1b2c3d4 ? 1000 : 1;
	if (number(capture, header + 20) != 1) {
		fprintf(stderr, "%s: not captured on Ethernet\n", path);
		return -1;
	}
	return 0;
}

/* Reads up to BATCH packets; -1 if the file is damaged. */
static int fill(struct batch *batch, const struct capture *capture)
{
	uint8_t header[16];

	for (batch->count = 0; batch->count < BATCH; batch->count++) {
		struct portcullis_packet *packet = &batch->packets[batch->count];
		uint8_t *bytes = batch->bytes[batch->count];
		size_t got = fread(header, 1, sizeof header, capture->file);
		uint32_t len;

		if (got == 0)
			return 0;
		if (got != sizeof header)
			return -1;
		len = number(capture, header + 8);
		if (len > LONGEST || fread(bytes, 1, len, capture->file) != len)
			return -1;
		packet->data = bytes;
		packet->len = len;
		packet->wire_len = number(capture, header + 12);
		batch->times[batch->count] = number(capture, header) * UINT64_C(1000000000) +
			number(capture, header + 4) * capture->fraction;
	}
	return 0;
}

static int complain(const struct portcullis_engine *engine, const char *what, int32_t status)
{
	char text[4096];

	if (portcullis_engine_error(engine, text, sizeof text, NULL) != PORTCULLIS_OK)
		text[0] = '\0';
	fprintf(stderr, "%s: %s\n%s\n", what, portcullis_status_text(status), text);
	return 1;
}

static void report(const struct batch *batch, size_t index, uint64_t packet)
{
	const struct portcullis_judgement *judgement = &batch->judgements[index];

	if (judgement->verdict != PORTCULLIS_ALLOW)
		printf("packet %" PRIu64 ": %s\n", packet, portcullis_reason_name(judgement->reason));
}

int main(int argc, char **argv)
{
	static struct batch batch;
	struct portcullis_engine *engine = NULL;
	struct portcullis_judge *judge = NULL;
	struct capture capture = { 0 };
	uint64_t packets = 0, passed = 0;
	int32_t status;
	int result = 1;

	if (argc != 4) {
		fprintf(stderr, "usage: %s CLUSTER.yaml POLICIES CAPTURE.pcap\n", argv[0]);
		return 1;
	}
	if (portcullis_abi_version() != PORTCULLIS_ABI_VERSION) {
		fprintf(stderr, "libportcullis is another version than its header\n");
		return 1;
	}
	if (portcullis_engine_new(NULL, &engine) != PORTCULLIS_OK) {
		fprintf(stderr, "no engine: out of memory or descriptors\n");
		return 1;
	}
	status = portcullis_engine_apply_files(engine, argv[1], (const char *const *)&argv[2], 1, NULL);
	if (status != PORTCULLIS_OK) {
		complain(engine, "apply", status);
		goto out;
	}
	status = portcullis_judge_new(engine, &judge);
	if (status != PORTCULLIS_OK) {
		complain(engine, "judge", status);
		goto out;
	}
	if (open_capture(&capture, argv[3]))
		goto out;
	do {
		if (fill(&batch, &capture)) {
			fprintf(stderr, "%s: damaged after packet %" PRIu64 "\n", argv[3],
				packets + batch.count);
			goto out;
		}
		/* A batch has one time; connections time out by the capture's clock. */
		status = portcullis_judge_packets(judge, batch.count ? batch.times[0] : 0,
			batch.packets, batch.count, batch.judgements);
		if (status != PORTCULLIS_OK) {
			fprintf(stderr, "judge: %s\n", portcullis_status_text(status));
			goto out;
		}
		for (size_t n = 0; n < batch.count; n++) {
			report(&batch, n, packets++);
			passed += batch.judgements[n].verdict == PORTCULLIS_ALLOW;
		}
	} while (batch.count == BATCH);
	printf("%" PRIu64 " packets, %" PRIu64 " pass\n", packets, passed);
	result = 0;
out:
	if (capture.file)
		fclose(capture.file);
	portcullis_judge_free(judge);
	portcullis_engine_free(engine);
	return result;
}
