/* What cgo calls: the C ABI with handles as integers. A handle is a number in the form of a pointer,
 * and Go's garbage collector may look at everything that has a pointer's type. */
#ifndef PORTCULLIS_GO_BRIDGE_H
#define PORTCULLIS_GO_BRIDGE_H

#include <portcullis.h>
#include <stdlib.h>

#define ENGINE(handle) ((portcullis_engine *)(handle))
#define JUDGE(handle) ((portcullis_judge *)(handle))
#define FIREWALL(handle) ((portcullis_firewall *)(handle))


static inline int32_t bridge_engine_new(const portcullis_engine_config *config, uintptr_t *out) {
    portcullis_engine *engine = NULL;
    int32_t status = portcullis_engine_new(config, &engine);
    *out = (uintptr_t)engine;
    return status;
}

static inline int32_t bridge_engine_free(uintptr_t engine) {
    return portcullis_engine_free(ENGINE(engine));
}

static inline int32_t bridge_engine_error(uintptr_t engine, char *buffer, size_t size,
                                          size_t *needed) {
    return portcullis_engine_error(ENGINE(engine), buffer, size, needed);
}

static inline int32_t bridge_engine_apply(uintptr_t engine, const portcullis_text *cluster,
                                          size_t cluster_count, const portcullis_text *policies,
                                          size_t policy_count, portcullis_applied *applied) {
    return portcullis_engine_apply(ENGINE(engine), cluster, cluster_count, policies, policy_count,
                                   applied);
}

static inline int32_t bridge_engine_apply_files(uintptr_t engine, const char *cluster,
                                                const char *const *policies, size_t policy_count,
                                                portcullis_applied *applied) {
    return portcullis_engine_apply_files(ENGINE(engine), cluster, policies, policy_count, applied);
}

static inline int32_t bridge_engine_upsert(uintptr_t engine, const portcullis_endpoint *endpoints,
                                           size_t count, size_t *done) {
    return portcullis_engine_upsert_endpoints(ENGINE(engine), endpoints, sizeof *endpoints, count,
                                              done);
}

static inline int32_t bridge_engine_remove(uintptr_t engine, const portcullis_endpoint_name *names,
                                           size_t count, size_t *removed) {
    return portcullis_engine_remove_endpoints(ENGINE(engine), names, count, removed);
}

static inline int32_t bridge_engine_replace(uintptr_t engine, const portcullis_endpoint *endpoints,
                                            size_t count) {
    return portcullis_engine_replace_endpoints(ENGINE(engine), endpoints, sizeof *endpoints, count);
}

static inline int32_t bridge_engine_replace_set(uintptr_t engine, const char *name,
                                                const portcullis_prefix *prefixes, size_t count) {
    return portcullis_engine_replace_set(ENGINE(engine), name, prefixes, count);
}

static inline int32_t bridge_engine_explain(uintptr_t engine, const portcullis_flow *flow,
                                            char *buffer, size_t size, size_t *needed) {
    return portcullis_engine_explain(ENGINE(engine), flow, buffer, size, needed);
}

static inline int32_t bridge_engine_diff(uintptr_t engine, const portcullis_text *cluster,
                                         size_t cluster_count, const portcullis_text *policies,
                                         size_t policy_count, char *buffer, size_t size,
                                         size_t *needed, size_t *changes) {
    return portcullis_engine_diff(ENGINE(engine), cluster, cluster_count, policies, policy_count,
                                  buffer, size, needed, changes);
}

static inline int32_t bridge_engine_warnings(uintptr_t engine, char *buffer, size_t size,
                                             size_t *needed) {
    return portcullis_engine_warnings(ENGINE(engine), buffer, size, needed);
}

static inline int32_t bridge_engine_rule(uintptr_t engine, uint32_t rule, char *buffer, size_t size,
                                         size_t *needed) {
    return portcullis_engine_rule(ENGINE(engine), rule, buffer, size, needed);
}

static inline int32_t bridge_engine_totals(uintptr_t engine, portcullis_totals *out) {
    return portcullis_engine_totals(ENGINE(engine), out);
}

static inline int32_t bridge_engine_drops(uintptr_t engine, uint64_t *counts, size_t capacity,
                                          size_t *count) {
    return portcullis_engine_drops(ENGINE(engine), counts, capacity, count);
}

static inline int32_t bridge_engine_events(uintptr_t engine, portcullis_event *events,
                                           size_t capacity, char *text, size_t text_size,
                                           size_t *count) {
    return portcullis_engine_events(ENGINE(engine), events, sizeof *events, capacity, text,
                                    text_size, count);
}

static inline int32_t bridge_engine_event_fd(uintptr_t engine, int *out) {
    return portcullis_engine_event_fd(ENGINE(engine), out);
}

static inline int32_t bridge_judge_new(uintptr_t engine, uintptr_t *out) {
    portcullis_judge *judge = NULL;
    int32_t status = portcullis_judge_new(ENGINE(engine), &judge);
    *out = (uintptr_t)judge;
    return status;
}

static inline int32_t bridge_judge_free(uintptr_t judge) {
    return portcullis_judge_free(JUDGE(judge));
}

static inline int32_t bridge_judge_error(uintptr_t judge, char *buffer, size_t size,
                                         size_t *needed) {
    return portcullis_judge_error(JUDGE(judge), buffer, size, needed);
}

/* One frame in a buffer; the layout of Go's Frame. */
typedef struct bridge_frame {
    uint32_t offset;
    uint32_t length;
    uint32_t wire_length;
} bridge_frame;

/* Judges `count` frames that lie in one buffer. `packets` is room for as many. */
static inline int32_t bridge_judge_buffer(uintptr_t judge, uint64_t now, const uint8_t *buffer,
                                          size_t size, const bridge_frame *frames, size_t count,
                                          portcullis_packet *packets, portcullis_judgement *out) {
    size_t n;
    for (n = 0; n < count; n++) {
        size_t offset = frames[n].offset, length = frames[n].length;
        if (offset > size || length > size - offset)
            return PORTCULLIS_BAD_VALUE;
        packets[n].data = buffer + offset;
        packets[n].len = length;
        packets[n].wire_len = frames[n].wire_length;
    }
    return portcullis_judge_packets(JUDGE(judge), now, packets, count, out);
}

static inline int32_t bridge_judge_flows(uintptr_t judge, const portcullis_flow *flows, size_t count,
                                         portcullis_judgement *out) {
    return portcullis_judge_flows(JUDGE(judge), flows, count, out);
}

static inline int32_t bridge_firewall_start(uintptr_t engine,
                                            const portcullis_firewall_config *config,
                                            uintptr_t *out) {
    portcullis_firewall *firewall = NULL;
    int32_t status = portcullis_firewall_start(ENGINE(engine), config, &firewall);
    *out = (uintptr_t)firewall;
    return status;
}

static inline int32_t bridge_firewall_stop(uintptr_t firewall) {
    return portcullis_firewall_stop(FIREWALL(firewall));
}

static inline int32_t bridge_firewall_port(uintptr_t firewall, size_t index, portcullis_port *out) {
    return portcullis_firewall_port(FIREWALL(firewall), index, out);
}

#endif
