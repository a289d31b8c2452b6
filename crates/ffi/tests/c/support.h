/* What the C tests share: checks, documents, packets. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include <portcullis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define STATUS(expected, call)                                                                     \
    do {                                                                                           \
        int32_t status_ = (call);                                                                  \
        if (status_ != (expected)) {                                                               \
            fprintf(stderr, "%s:%d: %s: %d (%s), expected %d\n", __FILE__, __LINE__, #call,        \
                    (int)status_, portcullis_status_text(status_), (int)(expected));               \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define OK(call) STATUS(PORTCULLIS_OK, call)

static const char CLUSTER[] =
    "{apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: shop, labels: {app: web}},"
    " status: {podIP: 10.0.0.1}}\n"
    "---\n"
    "{apiVersion: v1, kind: Pod, metadata: {name: db-0, namespace: shop, labels: {app: db}},"
    " status: {podIP: 10.0.0.2}}\n";

static const char POLICIES[] =
    "apiVersion: networking.k8s.io/v1\n"
    "kind: NetworkPolicy\n"
    "metadata: {name: web-to-db, namespace: shop}\n"
    "spec:\n"
    "  podSelector: {matchLabels: {app: db}}\n"
    "  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]\n";

static inline struct portcullis_text text_of(const char *name, const char *text) {
    struct portcullis_text result;
    result.name = name;
    result.data = (const uint8_t *)text;
    result.len = strlen(text);
    return result;
}

static inline int32_t apply(struct portcullis_engine *engine, const char *cluster,
                            const char *policies) {
    struct portcullis_text c = text_of("cluster.yaml", cluster);
    struct portcullis_text p = text_of("policies.yaml", policies);
    return portcullis_engine_apply(engine, &c, 1, &p, 1, NULL);
}

static inline struct portcullis_address v4(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
    struct portcullis_address address;
    memset(&address, 0, sizeof address);
    address.family = 4;
    address.bytes[0] = a;
    address.bytes[1] = b;
    address.bytes[2] = c;
    address.bytes[3] = d;
    return address;
}

enum { TCP_FRAME = 14 + 20 + 20, SYN = 2, SYN_ACK = 0x12, ACK = 0x10 };

/* A TCP segment without data from 10.0.0.`from` to 10.0.0.`to`. Checksums are left out: they are the
 * receiver's business. */
static inline void tcp_frame(uint8_t frame[TCP_FRAME], int from, int from_port, int to, int to_port,
                             int flags, uint32_t seq, uint32_t ack) {
    uint8_t *ip = frame + 14, *tcp = ip + 20;
    int i;
    memset(frame, 0, TCP_FRAME);
    frame[12] = 8;
    ip[0] = 0x45;
    ip[3] = 40;
    ip[8] = 64;
    ip[9] = 6;
    ip[12] = 10;
    ip[15] = (uint8_t)from;
    ip[16] = 10;
    ip[19] = (uint8_t)to;
    tcp[0] = (uint8_t)(from_port >> 8);
    tcp[1] = (uint8_t)from_port;
    tcp[2] = (uint8_t)(to_port >> 8);
    tcp[3] = (uint8_t)to_port;
    for (i = 0; i < 4; i++) {
        tcp[4 + i] = (uint8_t)(seq >> (24 - 8 * i));
        tcp[8 + i] = (uint8_t)(ack >> (24 - 8 * i));
    }
    tcp[12] = 0x50;
    tcp[13] = (uint8_t)flags;
    tcp[14] = 0xff;
}

static inline struct portcullis_packet packet_of(const uint8_t *frame) {
    struct portcullis_packet packet;
    packet.data = frame;
    packet.len = TCP_FRAME;
    packet.wire_len = 0;
    return packet;
}

#endif
