/* What cgo calls: the C ABI with handles as integers. A handle is a number in the form of a pointer,
 * and Go's garbage collector may look at everything that has a pointer's type. */
#ifndef PORTCULLIS_GO_BRIDGE_H
#define PORTCULLIS_GO_BRIDGE_H

#include <portcullis.h>
#include <stdlib.h>

#define ENGINE(handle) ((portcullis_engine *)(handle))
#define JUDGE(handle) ((portcullis_judge *)(handle))
#define FIREWALL(handle) ((portcullis_firewall *)(handle))
#define CAPTURE(handle) ((portcullis_capture *)(handle))
#define RECORDER(handle) ((portcullis_recorder *)(handle))
#define POLICIES(handle) ((portcullis_policies *)(handle))

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

static inline int32_t bridge_engine_set_policies(uintptr_t engine, const portcullis_text *policies,
                                                 size_t count, portcullis_applied *applied) {
    return portcullis_engine_set_policies(ENGINE(engine), policies, count, applied);
}

static inline int32_t bridge_engine_set_time(uintptr_t engine, uint64_t nanoseconds) {
    return portcullis_engine_set_time(ENGINE(engine), nanoseconds);
}

static inline int32_t bridge_policies_new(uintptr_t *out) {
    portcullis_policies *policies = NULL;
    int32_t status = portcullis_policies_new(&policies);
    *out = (uintptr_t)policies;
    return status;
}

static inline int32_t bridge_policies_free(uintptr_t policies) {
    return portcullis_policies_free(POLICIES(policies));
}

static inline int32_t bridge_policies_error(uintptr_t policies, char *buffer, size_t size,
                                            size_t *needed) {
    return portcullis_policies_error(POLICIES(policies), buffer, size, needed);
}

static inline int32_t bridge_policies_add_tier(uintptr_t policies, const char *name, uint8_t end,
                                               uint32_t *number) {
    return portcullis_policies_add_tier(POLICIES(policies), name, end, number);
}

static inline int32_t bridge_policies_add_set(uintptr_t policies, const char *name,
                                              const portcullis_prefix *prefixes, size_t count,
                                              uint32_t *number) {
    return portcullis_policies_add_set(POLICIES(policies), name, prefixes, count, number);
}

static inline int32_t bridge_policies_add_policy(uintptr_t policies, const portcullis_policy *policy,
                                                 uint32_t *number) {
    return portcullis_policies_add_policy(POLICIES(policies), policy, number);
}

static inline int32_t bridge_policies_add_rule(uintptr_t policies, const portcullis_rule *rule) {
    return portcullis_policies_add_rule(POLICIES(policies), rule);
}

static inline int32_t bridge_engine_apply_policies(uintptr_t engine, uint16_t zone,
                                                   const portcullis_cluster *cluster,
                                                   uintptr_t policies, portcullis_applied *applied) {
    return portcullis_engine_apply_policies(ENGINE(engine), zone, cluster, POLICIES(policies), applied);
}

static inline int32_t bridge_engine_set_cluster_values(uintptr_t engine,
                                                       const portcullis_cluster *cluster,
                                                       portcullis_applied *applied) {
    return portcullis_engine_set_cluster_values(ENGINE(engine), cluster, applied);
}

static inline int32_t bridge_engine_stage_policies(uintptr_t engine, uintptr_t policies) {
    return portcullis_engine_stage_policies(ENGINE(engine), POLICIES(policies));
}

static inline int32_t bridge_engine_diff_policies(uintptr_t engine, const portcullis_cluster *cluster,
                                                  uintptr_t policies, char *buffer, size_t size,
                                                  size_t *needed, size_t *changes) {
    return portcullis_engine_diff_policies(ENGINE(engine), cluster, POLICIES(policies), buffer, size,
                                           needed, changes);
}

static inline int32_t bridge_zone_apply(uintptr_t engine, uint16_t zone, const portcullis_text *cluster,
                                        size_t cluster_count, const portcullis_text *policies,
                                        size_t policy_count, portcullis_applied *applied) {
    return portcullis_zone_apply(ENGINE(engine), zone, cluster, cluster_count, policies, policy_count,
                                 applied);
}

static inline int32_t bridge_zone_remove(uintptr_t engine, uint16_t zone, int *removed) {
    return portcullis_zone_remove(ENGINE(engine), zone, removed);
}

static inline int32_t bridge_zone_upsert(uintptr_t engine, uint16_t zone,
                                         const portcullis_endpoint *endpoints, size_t count,
                                         size_t *done) {
    return portcullis_zone_upsert_endpoints(ENGINE(engine), zone, endpoints, sizeof *endpoints, count,
                                            done);
}

static inline int32_t bridge_zone_remove_endpoints(uintptr_t engine, uint16_t zone,
                                                   const portcullis_endpoint_name *names, size_t count,
                                                   size_t *removed) {
    return portcullis_zone_remove_endpoints(ENGINE(engine), zone, names, count, removed);
}

static inline int32_t bridge_zone_applied(uintptr_t engine, uint16_t zone, portcullis_applied *out) {
    return portcullis_zone_applied(ENGINE(engine), zone, out);
}

static inline int32_t bridge_zone_evaluate(uintptr_t engine, uint16_t zone, const portcullis_flow *flow,
                                           uint8_t *verdict, char *buffer, size_t size,
                                           size_t *needed) {
    return portcullis_zone_evaluate(ENGINE(engine), zone, flow, verdict, buffer, size, needed);
}

static inline int32_t bridge_engine_zones(uintptr_t engine, uint16_t *zones, size_t capacity,
                                          size_t *count) {
    return portcullis_engine_zones(ENGINE(engine), zones, capacity, count);
}

static inline int32_t bridge_engine_limit_rates(uintptr_t engine, const portcullis_rate *identity,
                                                const portcullis_rule_rate *rules, size_t count) {
    return portcullis_engine_limit_rates(ENGINE(engine), identity, rules, sizeof *rules, count);
}

static inline int32_t bridge_engine_mirror(uintptr_t engine, const portcullis_mirrored *mirrored) {
    return portcullis_engine_mirror(ENGINE(engine), mirrored);
}

static inline int32_t bridge_engine_unknown_rules(uintptr_t engine, char *buffer, size_t size,
                                                  size_t *needed) {
    return portcullis_engine_unknown_rules(ENGINE(engine), buffer, size, needed);
}

static inline int32_t bridge_engine_save(uintptr_t engine, int fd, uint32_t *saved) {
    return portcullis_engine_save_connections(ENGINE(engine), fd, saved);
}

static inline int32_t bridge_engine_restore(uintptr_t engine, int fd, uint8_t windows,
                                            portcullis_restored *out) {
    return portcullis_engine_restore_connections(ENGINE(engine), fd, windows, out);
}

static inline int32_t bridge_firewall_halt(uintptr_t firewall) {
    return portcullis_firewall_halt(FIREWALL(firewall));
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

static inline int32_t bridge_engine_rule_info(uintptr_t engine, uint32_t rule,
                                              portcullis_rule_info *out, char *buffer, size_t size,
                                              size_t *needed) {
    return portcullis_engine_rule_info(ENGINE(engine), rule, out, buffer, size, needed);
}

static inline int32_t bridge_engine_explain_json(uintptr_t engine, const portcullis_flow *flow,
                                                 char *buffer, size_t size, size_t *needed) {
    return portcullis_engine_explain_json(ENGINE(engine), flow, buffer, size, needed);
}

static inline int32_t bridge_engine_diff_json(uintptr_t engine, const portcullis_text *cluster,
                                              size_t cluster_count, const portcullis_text *policies,
                                              size_t policy_count, char *buffer, size_t size,
                                              size_t *needed) {
    return portcullis_engine_diff_json(ENGINE(engine), cluster, cluster_count, policies, policy_count,
                                       buffer, size, needed);
}

static inline int32_t bridge_engine_endpoints(uintptr_t engine, char *buffer, size_t size,
                                              size_t *needed) {
    return portcullis_engine_endpoints_json(ENGINE(engine), buffer, size, needed);
}

static inline int32_t bridge_engine_reach(uintptr_t engine, const char *namespace_name,
                                          const char *name, uint8_t direction, uint8_t as_json,
                                          char *buffer, size_t size, size_t *needed) {
    return portcullis_engine_reach(ENGINE(engine), namespace_name, name, direction, as_json, buffer,
                                   size, needed);
}

static inline int32_t bridge_engine_lint(uintptr_t engine, const portcullis_text *policies,
                                         size_t count, char *buffer, size_t size, size_t *needed) {
    return portcullis_engine_lint(ENGINE(engine), policies, count, 1, buffer, size, needed, NULL);
}

static inline int32_t bridge_engine_dropped_bytes(uintptr_t engine, uint64_t *counts, size_t capacity,
                                                  size_t *count) {
    return portcullis_engine_dropped_bytes(ENGINE(engine), counts, capacity, count);
}

static inline int32_t bridge_recorder_recorded(uintptr_t recorder, portcullis_recorded *out) {
    return portcullis_recorder_recorded(RECORDER(recorder), out);
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
                                          portcullis_packet *packets, portcullis_judgement *out,
                                          size_t *waiting) {
    size_t n;
    int32_t status;
    for (n = 0; n < count; n++) {
        size_t offset = frames[n].offset, length = frames[n].length;
        if (offset > size || length > size - offset)
            return PORTCULLIS_BAD_VALUE;
        packets[n].data = buffer + offset;
        packets[n].len = length;
        packets[n].wire_len = frames[n].wire_length;
    }
    status = portcullis_judge_packets(JUDGE(judge), now, packets, count, out);
    if (status != PORTCULLIS_OK)
        return status;
    return portcullis_judge_frames(JUDGE(judge), NULL, sizeof(portcullis_frame), 0, NULL, 0, &n,
                                   waiting);
}

/* Frames of a batch, by value: pointers that are arguments may point to Go's memory. */
#define BRIDGE_BATCH 64
typedef struct bridge_batch {
    const uint8_t *data[BRIDGE_BATCH];
    size_t length[BRIDGE_BATCH];
} bridge_batch;

static inline int32_t bridge_judge_batch(uintptr_t judge, uint64_t now, bridge_batch batch,
                                         size_t count, portcullis_judgement *out, size_t *waiting) {
    portcullis_packet packets[BRIDGE_BATCH];
    size_t n, none;
    int32_t status;
    for (n = 0; n < count; n++) {
        packets[n].data = batch.data[n];
        packets[n].len = batch.length[n];
        packets[n].wire_len = 0;
    }
    status = portcullis_judge_packets(JUDGE(judge), now, packets, count, out);
    if (status != PORTCULLIS_OK)
        return status;
    /* Frames to send are the exception: ask while we are here, and fetch them only if there are any. */
    return portcullis_judge_frames(JUDGE(judge), NULL, sizeof(portcullis_frame), 0, NULL, 0, &none,
                                   waiting);
}

static inline int32_t bridge_judge_frames(uintptr_t judge, portcullis_frame *frames, size_t capacity,
                                          uint8_t *bytes, size_t size, size_t *count,
                                          size_t *waiting) {
    return portcullis_judge_frames(JUDGE(judge), frames, sizeof *frames, capacity, bytes, size, count,
                                   waiting);
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

static inline int32_t bridge_firewall_error(uintptr_t firewall, char *buffer, size_t size,
                                            size_t *needed) {
    return portcullis_firewall_error(FIREWALL(firewall), buffer, size, needed);
}

static inline int32_t bridge_firewall_lesser_mode(uintptr_t firewall, char *buffer, size_t size,
                                                  size_t *needed) {
    return portcullis_firewall_lesser_mode(FIREWALL(firewall), buffer, size, needed);
}

static inline int32_t bridge_firewall_wires(uintptr_t firewall, char *buffer, size_t size,
                                            size_t *needed) {
    return portcullis_firewall_wires(FIREWALL(firewall), buffer, size, needed);
}

static inline int32_t bridge_firewall_add_wire(uintptr_t firewall, const portcullis_wire *wire) {
    return portcullis_firewall_add_wire(FIREWALL(firewall), wire);
}

static inline int32_t bridge_firewall_remove_wire(uintptr_t firewall, const char *name) {
    return portcullis_firewall_remove_wire(FIREWALL(firewall), name);
}

static inline int32_t bridge_firewall_early_drop(uintptr_t firewall,
                                                 const portcullis_prefix *prefixes, size_t count) {
    return portcullis_firewall_replace_early_drop(FIREWALL(firewall), prefixes, count);
}

static inline int32_t bridge_firewall_sockets(uintptr_t firewall, portcullis_socket *sockets,
                                              size_t capacity, size_t *count) {
    return portcullis_firewall_sockets(FIREWALL(firewall), sockets, sizeof *sockets, capacity, count);
}

static inline int32_t bridge_firewall_programs(uintptr_t firewall, portcullis_program *programs,
                                               size_t capacity, size_t *count) {
    return portcullis_firewall_programs(FIREWALL(firewall), programs, sizeof *programs, capacity,
                                        count);
}

static inline int32_t bridge_firewall_changes(uintptr_t firewall, portcullis_port_change *changes,
                                              size_t capacity, size_t *count) {
    return portcullis_firewall_port_changes(FIREWALL(firewall), changes, sizeof *changes, capacity,
                                            count);
}

static inline int32_t bridge_engine_set_cluster(uintptr_t engine, const portcullis_text *cluster,
                                                size_t count, portcullis_applied *applied) {
    return portcullis_engine_set_cluster(ENGINE(engine), cluster, count, applied);
}

static inline int32_t bridge_engine_applied(uintptr_t engine, portcullis_applied *out) {
    return portcullis_engine_applied(ENGINE(engine), out);
}

static inline int32_t bridge_engine_prove(uintptr_t engine, uint64_t *regions) {
    return portcullis_engine_prove(ENGINE(engine), regions);
}

static inline int32_t bridge_engine_stage(uintptr_t engine, const portcullis_text *policies,
                                          size_t count) {
    return portcullis_engine_stage(ENGINE(engine), policies, count);
}

static inline int32_t bridge_engine_unstage(uintptr_t engine) {
    return portcullis_engine_unstage(ENGINE(engine));
}

static inline int32_t bridge_engine_staged(uintptr_t engine, size_t *count) {
    return portcullis_engine_staged(ENGINE(engine), count);
}

static inline int32_t bridge_engine_forget_set(uintptr_t engine, const char *name, int *forgotten) {
    return portcullis_engine_forget_set(ENGINE(engine), name, forgotten);
}

static inline int32_t bridge_engine_sets(uintptr_t engine, char *buffer, size_t size,
                                         size_t *needed) {
    return portcullis_engine_sets(ENGINE(engine), buffer, size, needed);
}

static inline int32_t bridge_engine_rule_totals(uintptr_t engine, portcullis_rule_totals *rules,
                                                size_t capacity, size_t *count) {
    return portcullis_engine_rule_totals(ENGINE(engine), rules, sizeof *rules, capacity, count);
}

static inline int32_t bridge_engine_rounds(uintptr_t engine, uint64_t *bounds, uint64_t *counts,
                                           size_t capacity, size_t *count, uint64_t *sum) {
    return portcullis_engine_rounds(ENGINE(engine), bounds, counts, capacity, count, sum);
}

static inline int32_t bridge_engine_connections(uintptr_t engine, portcullis_connection *connections,
                                                size_t capacity, size_t *count) {
    return portcullis_engine_connections(ENGINE(engine), connections, sizeof *connections, capacity,
                                         count);
}

static inline int32_t bridge_engine_owner(uintptr_t engine, const portcullis_address *address,
                                          char *buffer, size_t size, size_t *needed) {
    return portcullis_engine_owner(ENGINE(engine), address, buffer, size, needed);
}

static inline int32_t bridge_engine_addresses(uintptr_t engine, const char *namespace_name,
                                              const char *name, portcullis_address *addresses,
                                              size_t capacity, size_t *count) {
    return portcullis_engine_addresses(ENGINE(engine), namespace_name, name, addresses, capacity,
                                       count);
}

static inline int32_t bridge_capture_new(uintptr_t engine, const portcullis_capture_filter *filter,
                                         uintptr_t *out) {
    portcullis_capture *capture = NULL;
    int32_t status = portcullis_capture_new(ENGINE(engine), filter, &capture);
    *out = (uintptr_t)capture;
    return status;
}

static inline int32_t bridge_capture_free(uintptr_t capture) {
    return portcullis_capture_free(CAPTURE(capture));
}

static inline int32_t bridge_capture_set_filter(uintptr_t capture,
                                                const portcullis_capture_filter *filter) {
    return portcullis_capture_set_filter(CAPTURE(capture), filter);
}

static inline int32_t bridge_capture_allow(uintptr_t capture, uint32_t packets) {
    return portcullis_capture_allow(CAPTURE(capture), packets);
}

static inline int32_t bridge_capture_packets(uintptr_t capture, portcullis_captured *packets,
                                             size_t capacity, uint8_t *bytes, size_t size,
                                             size_t *count, size_t *waiting) {
    return portcullis_capture_packets(CAPTURE(capture), packets, sizeof *packets, capacity, bytes,
                                      size, count, waiting);
}

static inline int32_t bridge_capture_lost(uintptr_t capture, uint64_t *lost, uint64_t *over) {
    return portcullis_capture_lost(CAPTURE(capture), lost, over);
}

static inline int32_t bridge_recorder_new(uintptr_t engine, const portcullis_recorder_config *config,
                                          uintptr_t *out) {
    portcullis_recorder *recorder = NULL;
    int32_t status = portcullis_recorder_new(ENGINE(engine), config, &recorder);
    *out = (uintptr_t)recorder;
    return status;
}

static inline int32_t bridge_recorder_free(uintptr_t recorder) {
    return portcullis_recorder_free(RECORDER(recorder));
}

static inline int32_t bridge_recorder_read(uintptr_t recorder, char *text, size_t size,
                                           size_t *written, uint64_t *lost) {
    return portcullis_recorder_read(RECORDER(recorder), text, size, written, lost);
}

static inline int32_t bridge_recorder_finish(uintptr_t recorder) {
    return portcullis_recorder_finish(RECORDER(recorder));
}

#endif
