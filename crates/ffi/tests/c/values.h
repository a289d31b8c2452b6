/* What the tests of values share: texts of errors, pods made in code. */
#ifndef VALUES_H
#define VALUES_H

#include "support.h"

#define TEXT_OF(call)                                                                              \
    do {                                                                                           \
        OK(call);                                                                                  \
        CHECK(needed == strlen(text) + 1);                                                         \
    } while (0)

static char text[1 << 16];
static size_t needed;

/* A call is refused with this status, and a text with this in it. */
#define WRONG(handle_error, handle, status, expected, call)                                        \
    do {                                                                                           \
        STATUS(status, call);                                                                      \
        OK(handle_error(handle, text, sizeof text, &needed));                                      \
        if (strstr(text, expected) == NULL) {                                                      \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, text);                              \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static inline portcullis_cluster cluster_of(const portcullis_endpoint *endpoints, size_t count) {
    portcullis_cluster cluster;
    memset(&cluster, 0, sizeof cluster);
    cluster.struct_size = sizeof cluster;
    cluster.endpoint_size = sizeof *endpoints;
    cluster.endpoints = endpoints;
    cluster.endpoint_count = count;
    return cluster;
}

/* web-0 is 10.0.0.1, db-0 is 10.0.0.2 with a port "dns". */
static inline void pods(portcullis_endpoint endpoints[2]) {
    static const portcullis_label labels[2] = {{"app", "web"}, {"app", "db"}};
    static portcullis_address addresses[2];
    static const portcullis_named_port dns = {"dns", 17, 5353};
    static const char *const names[2] = {"web-0", "db-0"};
    size_t n;
    memset(endpoints, 0, 2 * sizeof endpoints[0]);
    for (n = 0; n < 2; n++) {
        addresses[n] = v4(10, 0, 0, (uint8_t)(n + 1));
        endpoints[n].namespace_name = "shop";
        endpoints[n].name = names[n];
        endpoints[n].labels = &labels[n];
        endpoints[n].label_count = 1;
        endpoints[n].addresses = &addresses[n];
        endpoints[n].address_count = 1;
    }
    endpoints[1].named_ports = &dns;
    endpoints[1].named_port_count = 1;
}

#endif
