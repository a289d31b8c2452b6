/* What a caller who judges packets by himself has to send besides: answers to packets that were rejected,
 * byte by byte, and fragments that were held. */
#include "support.h"

static const char CLOSED[] =
    "apiVersion: networking.k8s.io/v1\n"
    "kind: NetworkPolicy\n"
    "metadata: {name: closed, namespace: shop}\n"
    "spec: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 5432}]}]}\n";

static const char SIX[] =
    "{apiVersion: v1, kind: Pod, metadata: {name: db-0, namespace: shop, labels: {app: db}},"
    " status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}, {ip: \"fd00::2\"}]}}\n";

static uint32_t be32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static unsigned be16(const uint8_t *at) { return (unsigned)at[0] << 8 | at[1]; }

/* The Internet checksum (RFC 1071) over `data` and what `sum` holds: 0 if one in the data is right. */
static unsigned checksum(const uint8_t *data, size_t len, uint32_t sum) {
    size_t n;
    for (n = 0; n + 1 < len; n += 2)
        sum += be16(data + n);
    if (len % 2)
        sum += (uint32_t)data[len - 1] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

static uint32_t sum_of(const uint8_t *data, size_t len) {
    uint32_t sum = 0;
    size_t n;
    for (n = 0; n < len; n += 2)
        sum += be16(data + n);
    return sum;
}

static portcullis_engine *engine_that_rejects(const char *cluster) {
    portcullis_engine_config config;
    portcullis_engine *engine = NULL;
    memset(&config, 0, sizeof config);
    config.struct_size = sizeof config;
    config.reject_denied = 2;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_new(&config, &engine));
    config.reject_denied = 1;
    OK(portcullis_engine_new(&config, &engine));
    OK(apply(engine, cluster, CLOSED));
    return engine;
}

/* Judges one packet, which is rejected; its one answer is in `bytes`. */
static size_t answer(portcullis_judge *judge, const uint8_t *frame, size_t len, uint8_t bytes[2048]) {
    portcullis_packet packet;
    portcullis_judgement out;
    portcullis_frame sent[2];
    size_t count = 99, waiting = 99;
    packet.data = frame;
    packet.len = len;
    packet.wire_len = 0;
    OK(portcullis_judge_packets(judge, 0, &packet, 1, &out));
    CHECK(out.verdict == PORTCULLIS_REJECT);
    CHECK(strcmp(portcullis_reason_name(out.reason), "policy_rejected") == 0);
    OK(portcullis_judge_frames(judge, sent, sizeof sent[0], 2, bytes, 2048, &count, &waiting));
    CHECK(count == 1 && waiting == 0);
    CHECK(sent[0].kind == PORTCULLIS_FRAME_ANSWER && sent[0].packet == 0 && sent[0].data == bytes);
    /* Each once. */
    OK(portcullis_judge_frames(judge, sent, sizeof sent[0], 2, bytes + 1024, 1024, &count, &waiting));
    CHECK(count == 0 && waiting == 0);
    return sent[0].len;
}

/* Addresses go back, and the header's checksum is right. */
static void check_ip(const uint8_t *frame, size_t len, uint8_t protocol) {
    const uint8_t *ip = frame + 14;
    CHECK(memcmp(frame, "\2\0\0\0\0\1", 6) == 0 && memcmp(frame + 6, "\2\0\0\0\0\2", 6) == 0);
    CHECK(be16(frame + 12) == 0x0800 && ip[0] == 0x45 && be16(ip + 2) == len - 14);
    CHECK(ip[9] == protocol && checksum(ip, 20, 0) == 0);
    CHECK(be32(ip + 12) == 0x0a000002 && be32(ip + 16) == 0x0a000001);
}

static void addresses(uint8_t *frame) {
    memcpy(frame, "\2\0\0\0\0\2\2\0\0\0\0\1", 12);
}

/* A reset from the database to the web, of these numbers. */
static void check_reset(const uint8_t *bytes, size_t len, int port, uint32_t seq, uint32_t ack,
                        int flags) {
    const uint8_t *tcp = bytes + 34;
    CHECK(len == 54);
    check_ip(bytes, len, 6);
    CHECK(be16(tcp) == (unsigned)port && be16(tcp + 2) == 40000);
    CHECK(be32(tcp + 4) == seq && be32(tcp + 8) == ack);
    CHECK(tcp[12] == 0x50 && tcp[13] == flags);
    /* Pseudo-header: both addresses, the protocol, the length. */
    CHECK(checksum(tcp, 20, sum_of(bytes + 26, 8) + 6 + 20) == 0);
}

static void resets(void) {
    const int RST = 4, RST_ACK = 0x14;
    portcullis_engine *engine = engine_that_rejects(CLUSTER);
    portcullis_judge *judge = NULL;
    portcullis_packet packets[70];
    portcullis_judgement out[70];
    portcullis_frame sent[70];
    portcullis_event events[4];
    portcullis_totals totals;
    static uint8_t frames[70][TCP_FRAME];
    uint8_t frame[TCP_FRAME], bytes[70 * 54];
    char text[512];
    size_t len, count = 0, n;

    OK(portcullis_judge_new(engine, &judge));
    /* Without ACK: sequence number zero, and what was sent is acknowledged; the SYN takes one. */
    tcp_frame(frame, 1, 40000, 2, 22, SYN, 0xffffffff, 0);
    addresses(frame);
    len = answer(judge, frame, sizeof frame, bytes);
    check_reset(bytes, len, 22, 0, 0, RST_ACK);
    tcp_frame(frame, 1, 40000, 2, 22, SYN, 1000, 0);
    addresses(frame);
    len = answer(judge, frame, sizeof frame, bytes);
    check_reset(bytes, len, 22, 0, 1001, RST_ACK);
    OK(portcullis_engine_events(engine, events, sizeof events[0], 4, text, sizeof text, &count));
    CHECK(count == 2 && events[0].verdict == PORTCULLIS_REJECT);

    /* A connection that a change cuts: with ACK the reset has the number that is waited for. */
    tcp_frame(frame, 1, 40000, 2, 5432, SYN, 1000, 0);
    addresses(frame);
    packets[0] = packet_of(frame);
    OK(portcullis_judge_packets(judge, 0, packets, 1, out));
    CHECK(out[0].verdict == PORTCULLIS_ALLOW);
    OK(apply(engine, CLUSTER,
             "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy,"
             " metadata: {name: shut, namespace: shop}, spec: {podSelector: {}}}"));
    tcp_frame(frame, 1, 40000, 2, 5432, ACK, 1001, 7001);
    addresses(frame);
    len = answer(judge, frame, sizeof frame, bytes);
    check_reset(bytes, len, 5432, 7001, 0, RST);

    /* Answers know their packet, beyond a batch too. The first 69 connections are denied, the last
     * packet is a reset, which nobody answers. */
    for (n = 0; n < 70; n++) {
        tcp_frame(frames[n], 1, 40000, 2, 1000 + (int)n, n < 69 ? (int)SYN : RST, 5, 0);
        packets[n] = packet_of(frames[n]);
    }
    OK(portcullis_judge_packets(judge, 0, packets, 70, out));
    OK(portcullis_judge_frames(judge, sent, sizeof sent[0], 70, bytes, sizeof bytes, &count, &len));
    CHECK(count == 69 && len == 0);
    for (n = 0; n < count; n++) {
        CHECK(sent[n].kind == PORTCULLIS_FRAME_ANSWER && sent[n].packet == n);
        CHECK(be16(sent[n].data + 34) == 1000 + n);
    }
    memset(&totals, 0, sizeof totals);
    totals.struct_size = sizeof totals;
    OK(portcullis_engine_totals(engine, &totals));
    CHECK(totals.rejects_sent == 3 + 69);
    OK(portcullis_judge_free(judge));
    OK(portcullis_engine_free(engine));
}

static void prohibitions(void) {
    portcullis_engine *engine = engine_that_rejects(SIX);
    portcullis_judge *judge = NULL;
    uint8_t four[14 + 20 + 8 + 5], six[14 + 40 + 8 + 5], bytes[2048];
    const uint8_t *icmp;
    size_t len;

    OK(portcullis_judge_new(engine, &judge));
    /* UDP over IPv4: type 3, code 13, and the packet as it came. */
    memset(four, 0, sizeof four);
    addresses(four);
    four[12] = 8;
    four[14] = 0x45;
    four[17] = sizeof four - 14;
    four[22] = 64;
    four[23] = 17;
    four[26] = four[30] = 10;
    four[29] = 1;
    four[33] = 2;
    four[35] = 99;
    four[37] = 53;
    four[39] = 8 + 5;
    memcpy(four + 42, "hello", 5);
    len = answer(judge, four, sizeof four, bytes);
    check_ip(bytes, len, 1);
    icmp = bytes + 34;
    CHECK(icmp[0] == 3 && icmp[1] == 13 && be32(icmp + 4) == 0);
    CHECK(len == 34 + 8 + sizeof four - 14 && memcmp(icmp + 8, four + 14, sizeof four - 14) == 0);
    CHECK(checksum(icmp, len - 34, 0) == 0);

    /* The same over IPv6: type 1, code 1. */
    memset(six, 0, sizeof six);
    addresses(six);
    six[12] = 0x86;
    six[13] = 0xdd;
    six[14] = 0x60;
    six[19] = 8 + 5;
    six[20] = 17;
    six[21] = 64;
    six[22] = six[38] = 0xfd;
    six[37] = 1;
    six[53] = 2;
    six[55] = 99;
    six[57] = 53;
    six[59] = 8 + 5;
    six[61] = 1; /* IPv6 has no UDP without a checksum */
    memcpy(six + 62, "hello", 5);
    len = answer(judge, six, sizeof six, bytes);
    CHECK(be16(bytes + 12) == 0x86dd && bytes[14] == 0x60 && bytes[20] == 58);
    CHECK(be16(bytes + 18) == len - 54);
    CHECK(memcmp(bytes + 22, six + 38, 16) == 0 && memcmp(bytes + 38, six + 22, 16) == 0);
    icmp = bytes + 54;
    CHECK(icmp[0] == 1 && icmp[1] == 1 && be32(icmp + 4) == 0);
    CHECK(len == 54 + 8 + sizeof six - 14 && memcmp(icmp + 8, six + 14, sizeof six - 14) == 0);
    CHECK(checksum(icmp, len - 54, sum_of(bytes + 22, 32) + 58 + (uint32_t)(len - 54)) == 0);
    OK(portcullis_judge_free(judge));
    OK(portcullis_engine_free(engine));
}

/* The last and the middle piece of a packet come before the first: both are held, then sent on. */
static void fragments(void) {
    portcullis_engine *engine = NULL;
    portcullis_judge *judge = NULL;
    uint8_t pieces[3][14 + 20 + 16], bytes[256];
    portcullis_packet packets[3];
    portcullis_judgement out[3];
    portcullis_frame sent[4];
    size_t n, count = 0, waiting = 0;

    OK(portcullis_engine_new(NULL, &engine));
    OK(apply(engine, CLUSTER, ""));
    OK(portcullis_judge_new(engine, &judge));
    for (n = 0; n < 3; n++) {
        uint8_t *frame = pieces[n], place = (uint8_t)(2 - n);
        memset(frame, 0, sizeof pieces[n]);
        frame[12] = 8;
        frame[14] = 0x45;
        frame[17] = 36;
        frame[19] = 9;
        frame[20] = place < 2 ? 0x20 : 0; /* more come */
        frame[21] = (uint8_t)(place * 2); /* in units of 8 bytes */
        frame[22] = 64;
        frame[23] = 17;
        frame[26] = frame[30] = 10;
        frame[29] = 1;
        frame[33] = 2;
        frame[34] = place;
        packets[n].data = frame;
        packets[n].len = packets[n].wire_len = sizeof pieces[n];
    }
    pieces[2][37] = 53;
    pieces[2][39] = 48;
    OK(portcullis_judge_packets(judge, 0, packets, 3, out));
    for (n = 0; n < 2; n++) {
        CHECK(out[n].verdict == PORTCULLIS_DENY);
        CHECK(strcmp(portcullis_reason_name(out[n].reason), "fragment_held") == 0);
    }
    CHECK(out[2].verdict == PORTCULLIS_ALLOW);
    OK(portcullis_judge_frames(judge, sent, sizeof sent[0], 4, bytes, sizeof bytes, &count, &waiting));
    CHECK(count == 2 && waiting == 0);
    for (n = 0; n < 2; n++) {
        CHECK(sent[n].kind == PORTCULLIS_FRAME_RELEASED && sent[n].len == sizeof pieces[n]);
        CHECK(memcmp(sent[n].data, pieces[0], sent[n].len) == 0 ||
              memcmp(sent[n].data, pieces[1], sent[n].len) == 0);
    }
    CHECK(memcmp(sent[0].data, sent[1].data, sent[0].len) != 0);
    OK(portcullis_judge_free(judge));
    OK(portcullis_engine_free(engine));
}

int main(void) {
    resets();
    prohibitions();
    fragments();
    puts("answers: ok");
    return 0;
}
