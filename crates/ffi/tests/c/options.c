/* Zones behind tunnels, rates, mirrors, settings, a clock of the caller's, records in the form of Hubble. */
#include "values.h"

enum { OUTER = 14 + 20 + 8 + 8, IN_VXLAN = OUTER + TCP_FRAME };

/* A segment in VXLAN, between hosts that no policy knows. */
static void vxlan_frame(uint8_t frame[IN_VXLAN], uint32_t vni, int port, int flags) {
    uint8_t *udp = frame + 34;
    memset(frame, 0, OUTER);
    frame[12] = 8;
    frame[14] = 0x45;
    frame[17] = IN_VXLAN - 14;
    frame[22] = 64;
    frame[23] = 17;
    memcpy(frame + 26, "\300\0\2\1\300\0\2\2", 8);
    udp[0] = 0xc0;
    udp[2] = 4789 >> 8;
    udp[3] = 4789 & 0xff;
    udp[5] = IN_VXLAN - 34;
    udp[8] = 8; /* the network is given */
    udp[12] = (uint8_t)(vni >> 16);
    udp[13] = (uint8_t)(vni >> 8);
    udp[14] = (uint8_t)vni;
    tcp_frame(frame + OUTER, 1, 40000, 2, port, flags, 1, 0);
}

static void zones(void) {
    portcullis_engine_config config;
    portcullis_tunnel tunnels[3];
    portcullis_engine *engine = NULL;
    portcullis_judge *judge = NULL;
    portcullis_policies *policies = NULL;
    portcullis_endpoint endpoints[2];
    portcullis_endpoint_name name = {"shop", "web-0"};
    portcullis_text cluster = text_of("cluster.yaml", CLUSTER);
    portcullis_text rules = text_of("policies.yaml", POLICIES);
    portcullis_text broken = text_of("broken.yaml", "kind: [");
    portcullis_applied applied;
    portcullis_flow flow;
    portcullis_event events[8];
    uint8_t frames[4][IN_VXLAN], verdict = 9;
    portcullis_packet packets[4];
    portcullis_judgement out[4];
    uint16_t numbers[4];
    size_t n, count = 99;
    int removed = 9;

    memset(&config, 0, sizeof config);
    config.struct_size = sizeof config;
    memset(tunnels, 0, sizeof tunnels);
    tunnels[0].kind = tunnels[1].kind = PORTCULLIS_TUNNEL_VXLAN;
    tunnels[0].vni = 42;
    tunnels[0].zone = 1;
    tunnels[1].vni = 43;
    tunnels[1].zone = 2;
    tunnels[2].kind = PORTCULLIS_TUNNEL_GENEVE;
    tunnels[2].all_networks = 1;
    tunnels[2].zone = 3;
    config.tunnels = tunnels;
    config.tunnel_count = 3;
    tunnels[1].vni = 42;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_new(&config, &engine)); /* twice */
    tunnels[1].vni = 1 << 24;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_new(&config, &engine));
    tunnels[1].vni = 43;
    tunnels[2].port = 4789;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_new(&config, &engine)); /* both at one port */
    tunnels[2].port = 0;
    tunnels[2].vni = 1;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_new(&config, &engine)); /* all, and one */
    tunnels[2].vni = 0;
    tunnels[2].kind = PORTCULLIS_TUNNEL_IP;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_new(&config, &engine)); /* IP has no networks */
    tunnels[2].kind = 0;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_new(&config, &engine));
    tunnels[2].kind = PORTCULLIS_TUNNEL_GENEVE;
    config.tunnels = NULL;
    STATUS(PORTCULLIS_NULL, portcullis_engine_new(&config, &engine));
    config.tunnels = tunnels;
    OK(portcullis_engine_new(&config, &engine));
    OK(portcullis_judge_new(engine, &judge));
    OK(apply(engine, CLUSTER, "")); /* everything passes, outside of tunnels */

    memset(&applied, 0, sizeof applied);
    applied.struct_size = sizeof applied;
    STATUS(PORTCULLIS_BAD_VALUE,
           portcullis_zone_apply(engine, 0, &cluster, 1, &rules, 1, &applied));
    WRONG(portcullis_engine_error, engine, PORTCULLIS_REFUSED, "broken.yaml:",
          portcullis_zone_apply(engine, 1, &cluster, 1, &broken, 1, &applied));
    STATUS(PORTCULLIS_NO_SUCH_ZONE, portcullis_zone_applied(engine, 1, &applied));
    OK(portcullis_engine_zones(engine, numbers, 4, &count));
    CHECK(count == 0);
    OK(portcullis_zone_apply(engine, 1, &cluster, 1, &rules, 1, &applied));
    CHECK(applied.generation == 1 && applied.policies == 1 && applied.endpoints == 2);

    /* The same packets, in two networks: one has policies, one has nothing; a third is none of ours. */
    vxlan_frame(frames[0], 42, 5432, SYN);
    vxlan_frame(frames[1], 42, 22, SYN);
    vxlan_frame(frames[2], 43, 5432, SYN);
    vxlan_frame(frames[3], 44, 5432, SYN);
    for (n = 0; n < 4; n++) {
        packets[n].data = frames[n];
        packets[n].len = packets[n].wire_len = sizeof frames[n];
    }
    OK(portcullis_judge_packets(judge, 0, packets, 4, out));
    CHECK(out[0].verdict == PORTCULLIS_ALLOW && out[0].rule != PORTCULLIS_NO_RULE);
    CHECK(out[1].verdict == PORTCULLIS_DENY);
    CHECK(strcmp(portcullis_reason_name(out[1].reason), "policy_denied") == 0);
    CHECK(out[2].verdict == PORTCULLIS_DENY);
    CHECK(strcmp(portcullis_reason_name(out[2].reason), "policy_denied") == 0);
    CHECK(out[3].verdict == PORTCULLIS_DENY);
    CHECK(strcmp(portcullis_reason_name(out[3].reason), "tunnel_network") == 0);
    OK(portcullis_engine_events(engine, events, sizeof events[0], 8, text, sizeof text, &count));
    CHECK(count >= 2 && events[0].zone == 1 && strcmp(events[0].source_name, "shop/web-0") == 0);

    /* A zone made in code, an endpoint that goes and comes. */
    OK(portcullis_policies_new(&policies));
    pods(endpoints);
    {
        portcullis_cluster made = cluster_of(endpoints, 2);
        WRONG(portcullis_engine_error, engine, PORTCULLIS_BAD_VALUE, "zone 2: no cluster",
              portcullis_engine_apply_policies(engine, 2, NULL, policies, NULL));
        OK(portcullis_engine_apply_policies(engine, 2, &made, policies, &applied));
        CHECK(applied.policies == 0 && applied.endpoints == 2);
    }
    OK(portcullis_judge_packets(judge, 0, &packets[2], 1, out));
    CHECK(out[0].verdict == PORTCULLIS_ALLOW && out[0].rule == PORTCULLIS_NO_RULE);
    OK(portcullis_engine_zones(engine, numbers, 1, &count));
    CHECK(count == 2 && numbers[0] == 1);
    OK(portcullis_zone_remove_endpoints(engine, 1, &name, 1, &count));
    CHECK(count == 1);
    OK(portcullis_zone_applied(engine, 1, &applied));
    CHECK(applied.endpoints == 1);
    memset(&flow, 0, sizeof flow);
    flow.source = v4(10, 0, 0, 1);
    flow.destination = v4(10, 0, 0, 2);
    flow.protocol = 6;
    flow.destination_port = 5432;
    OK(portcullis_zone_evaluate(engine, 1, &flow, &verdict, text, sizeof text, &needed));
    CHECK(verdict == PORTCULLIS_DENY && strstr(text, "web-to-db ingress") != NULL);
    OK(portcullis_zone_upsert_endpoints(engine, 1, endpoints, sizeof endpoints[0], 1, &count));
    CHECK(count == 1);
    OK(portcullis_zone_evaluate(engine, 1, &flow, &verdict, text, sizeof text, &needed));
    CHECK(verdict == PORTCULLIS_ALLOW && strstr(text, "policies.yaml:") != NULL);
    STATUS(PORTCULLIS_NO_SUCH_ZONE,
           portcullis_zone_upsert_endpoints(engine, 9, endpoints, sizeof endpoints[0], 1, &count));
    CHECK(count == 0);
    STATUS(PORTCULLIS_NO_SUCH_ZONE,
           portcullis_zone_evaluate(engine, 9, &flow, &verdict, text, sizeof text, &needed));
    flow.source.family = 6;
    STATUS(PORTCULLIS_BAD_VALUE,
           portcullis_zone_evaluate(engine, 1, &flow, &verdict, text, sizeof text, &needed));
    OK(portcullis_zone_remove(engine, 1, &removed));
    CHECK(removed == 1);
    OK(portcullis_zone_remove(engine, 1, &removed));
    CHECK(removed == 0);
    OK(portcullis_judge_packets(judge, 0, packets, 1, out));
    CHECK(out[0].verdict == PORTCULLIS_DENY);
    OK(portcullis_policies_free(policies));
    OK(portcullis_judge_free(judge));
    OK(portcullis_engine_free(engine));
}

static void rates(void) {
    portcullis_engine_config config;
    portcullis_engine *engine = NULL;
    portcullis_judge *judge = NULL;
    portcullis_rate identity;
    portcullis_rule_rate rule;
    portcullis_mirrored mirrored;
    uint8_t frames[8][TCP_FRAME];
    portcullis_packet packets[8];
    portcullis_judgement out[8];
    size_t n, passed;

    memset(&config, 0, sizeof config);
    config.struct_size = sizeof config;
    config.virtual_clock = 1;
    OK(portcullis_engine_new(&config, &engine));
    OK(portcullis_engine_set_time(engine, 1000000000));
    OK(portcullis_judge_new(engine, &judge));
    OK(apply(engine, CLUSTER, POLICIES));
    for (n = 0; n < 8; n++) {
        tcp_frame(frames[n], 1, 40000 + (int)n, 2, 5432, SYN, 1, 0);
        packets[n] = packet_of(frames[n]);
    }
    memset(&rule, 0, sizeof rule);
    rule.rule.policy = "NetworkPolicy/shop/web-to-db";
    rule.rule.direction = PORTCULLIS_INGRESS;
    rule.rule.one = 1;
    rule.rate.per_second = 3;
    OK(portcullis_engine_limit_rates(engine, NULL, &rule, sizeof rule, 1));
    TEXT_OF(portcullis_engine_unknown_rules(engine, text, sizeof text, &needed));
    CHECK(text[0] == '\0');
    /* Three at once, and one more every third of a second of the caller's clock. */
    OK(portcullis_judge_packets(judge, 0, packets, 5, out));
    for (passed = n = 0; n < 5; n++)
        passed += out[n].verdict == PORTCULLIS_ALLOW;
    CHECK(passed == 3 && strcmp(portcullis_reason_name(out[4].reason), "rate_limit") == 0);
    OK(portcullis_engine_set_time(engine, 1334000000));
    OK(portcullis_engine_set_time(engine, 5)); /* it does not go back */
    OK(portcullis_judge_packets(judge, 0, packets + 5, 2, out));
    CHECK(out[0].verdict == PORTCULLIS_ALLOW && out[1].verdict == PORTCULLIS_DENY);

    rule.rule.index = 7;
    OK(portcullis_engine_limit_rates(engine, NULL, &rule, sizeof rule, 1));
    TEXT_OF(portcullis_engine_unknown_rules(engine, text, sizeof text, &needed));
    CHECK(strcmp(text, "NetworkPolicy/shop/web-to-db ingress rule 7") == 0);
    memset(&identity, 0, sizeof identity);
    identity.unit = PORTCULLIS_BYTES;
    identity.per_second = 1000;
    identity.burst = 2 * TCP_FRAME;
    OK(portcullis_engine_limit_rates(engine, &identity, NULL, sizeof rule, 0));
    OK(portcullis_judge_packets(judge, 0, packets, 3, out));
    CHECK(out[1].verdict == PORTCULLIS_ALLOW && out[2].verdict == PORTCULLIS_DENY);
    OK(portcullis_engine_limit_rates(engine, NULL, NULL, sizeof rule, 0));
    OK(portcullis_judge_packets(judge, 0, packets, 8, out));
    CHECK(out[7].verdict == PORTCULLIS_ALLOW);
    identity.unit = 2;
    WRONG(portcullis_engine_error, engine, PORTCULLIS_BAD_VALUE, "unit 2",
          portcullis_engine_limit_rates(engine, &identity, NULL, sizeof rule, 0));
    rule.rule.one = 0;
    WRONG(portcullis_engine_error, engine, PORTCULLIS_BAD_VALUE, "index 7 without",
          portcullis_engine_limit_rates(engine, NULL, &rule, sizeof rule, 1));
    rule.rule.index = 0;
    rule.rule.direction = 3;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_limit_rates(engine, NULL, &rule, sizeof rule, 1));
    rule.rule.direction = 0;
    rule.rule.policy = NULL;
    STATUS(PORTCULLIS_NULL, portcullis_engine_limit_rates(engine, NULL, &rule, sizeof rule, 1));
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_engine_limit_rates(engine, NULL, &rule, 4, 1));

    memset(&mirrored, 0, sizeof mirrored);
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_engine_mirror(engine, &mirrored));
    mirrored.struct_size = sizeof mirrored;
    rule.rule.policy = "NetworkPolicy/shop/nosuch";
    mirrored.rules = &rule.rule;
    mirrored.rule_count = 1;
    mirrored.verdicts = 1 << PORTCULLIS_DENY;
    OK(portcullis_engine_mirror(engine, &mirrored));
    TEXT_OF(portcullis_engine_unknown_rules(engine, text, sizeof text, &needed));
    CHECK(strcmp(text, "NetworkPolicy/shop/nosuch") == 0);
    mirrored.verdicts = 8;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_mirror(engine, &mirrored));
    OK(portcullis_engine_mirror(engine, NULL));
    TEXT_OF(portcullis_engine_unknown_rules(engine, text, sizeof text, &needed));
    CHECK(text[0] == '\0');
    OK(portcullis_judge_free(judge));
    OK(portcullis_engine_free(engine));
    OK(portcullis_engine_new(NULL, &engine));
    WRONG(portcullis_engine_error, engine, PORTCULLIS_BAD_VALUE, "virtual_clock",
          portcullis_engine_set_time(engine, 1));
    OK(portcullis_engine_free(engine));
}

/* Timeouts and bounds are those that were set. */
static void settings(void) {
    portcullis_engine_config config;
    portcullis_engine *engine = NULL;
    portcullis_judge *judge = NULL;
    portcullis_totals totals;
    uint8_t frame[TCP_FRAME];
    portcullis_packet packet;
    portcullis_judgement out;

    memset(&config, 0, sizeof config);
    config.struct_size = sizeof config;
    config.prove = 3;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_new(&config, &engine));
    config.prove = 2;
    config.proof_threads = 5000;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_new(&config, &engine));
    config.proof_threads = 2;
    config.reserved[1] = 1;
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_engine_new(&config, &engine));
    config.reserved[1] = 0;
    config.fragmented_packets = 1 << 21;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_new(&config, &engine));
    config.fragmented_packets = 16;
    config.fragment_bytes = 4096;
    config.virtual_clock = 1;
    config.tcp_syn_sent_timeout_ms = 1000;
    config.half_open_in_all = 1;
    OK(portcullis_engine_new(&config, &engine));
    OK(portcullis_engine_set_time(engine, 1000000000));
    OK(portcullis_judge_new(engine, &judge));
    OK(apply(engine, CLUSTER, POLICIES));
    tcp_frame(frame, 1, 40000, 2, 5432, SYN, 1, 0);
    packet = packet_of(frame);
    OK(portcullis_judge_packets(judge, 0, &packet, 1, &out));
    CHECK(out.verdict == PORTCULLIS_ALLOW);
    tcp_frame(frame, 1, 40001, 2, 5432, SYN, 1, 0);
    OK(portcullis_judge_packets(judge, 0, &packet, 1, &out));
    CHECK(out.verdict == PORTCULLIS_DENY);
    CHECK(strcmp(portcullis_reason_name(out.reason), "half_open_limit") == 0);
    /* The first is forgotten after a second, and there is room again. */
    OK(portcullis_engine_set_time(engine, 1500000000));
    OK(portcullis_judge_packets(judge, 0, &packet, 0, NULL));
    memset(&totals, 0, sizeof totals);
    totals.struct_size = sizeof totals;
    OK(portcullis_engine_totals(engine, &totals));
    CHECK(totals.connections == 1);
    OK(portcullis_engine_set_time(engine, 60000000000));
    OK(portcullis_judge_packets(judge, 0, &packet, 0, NULL));
    OK(portcullis_engine_totals(engine, &totals));
    CHECK(totals.connections == 0);
    OK(portcullis_judge_packets(judge, 0, &packet, 1, &out));
    CHECK(out.verdict == PORTCULLIS_ALLOW);
    OK(portcullis_judge_free(judge));
    OK(portcullis_engine_free(engine));
}

/* Records as Hubble prints flows, and what is recorded by policy. */
static void records(void) {
    portcullis_engine *engine = NULL;
    portcullis_judge *judge = NULL;
    portcullis_recorder *recorder = NULL;
    portcullis_recorder_config config;
    portcullis_policy_keep policies[2] = {{"NetworkPolicy/shop/*", "none"}, {"default", "all"}};
    uint8_t frames[3][TCP_FRAME];
    portcullis_packet packets[3];
    portcullis_judgement out[3];
    size_t n, written = 0;

    OK(portcullis_engine_new(NULL, &engine));
    OK(portcullis_judge_new(engine, &judge));
    OK(apply(engine, CLUSTER, POLICIES));
    memset(&config, 0, sizeof config);
    config.struct_size = sizeof config;
    config.node = "node-1";
    WRONG(portcullis_engine_error, engine, PORTCULLIS_BAD_VALUE, "node:",
          portcullis_recorder_new(engine, &config, &recorder));
    config.form = 2;
    WRONG(portcullis_engine_error, engine, PORTCULLIS_BAD_VALUE, "form 2",
          portcullis_recorder_new(engine, &config, &recorder));
    config.form = PORTCULLIS_FORM_HUBBLE;
    config.reserved = 1;
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_recorder_new(engine, &config, &recorder));
    config.reserved = 0;
    config.policies = policies;
    config.policy_count = 2;
    policies[1].policies = "a/b";
    WRONG(portcullis_engine_error, engine, PORTCULLIS_BAD_VALUE, "policies 1: policy \"a/b\"",
          portcullis_recorder_new(engine, &config, &recorder));
    policies[1].policies = NULL;
    STATUS(PORTCULLIS_NULL, portcullis_recorder_new(engine, &config, &recorder));
    policies[1].policies = "default";
    OK(portcullis_recorder_new(engine, &config, &recorder));
    tcp_frame(frames[0], 1, 40000, 2, 5432, SYN, 1, 0); /* by web-to-db */
    tcp_frame(frames[1], 1, 40000, 2, 22, SYN, 1, 0);   /* denied by web-to-db */
    tcp_frame(frames[2], 2, 40000, 1, 80, SYN, 1, 0);   /* no policy decides */
    for (n = 0; n < 3; n++)
        packets[n] = packet_of(frames[n]);
    OK(portcullis_judge_packets(judge, 0, packets, 3, out));
    CHECK(out[0].verdict == PORTCULLIS_ALLOW && out[2].verdict == PORTCULLIS_ALLOW);
    OK(portcullis_recorder_finish(recorder));
    OK(portcullis_recorder_read(recorder, text, sizeof text - 1, &written, NULL));
    text[written] = '\0';
    CHECK(written > 0 && strchr(text, '\n') == text + written - 1); /* one line */
    CHECK(strstr(text, "\"node_name\":\"node-1\"") != NULL);
    CHECK(strstr(text, "\"verdict\":\"FORWARDED\"") != NULL);
    CHECK(strstr(text, "\"pod_name\":\"db-0\"") != NULL && strstr(text, "\"destination_port\":80"));
    OK(portcullis_recorder_free(recorder));
    OK(portcullis_judge_free(judge));
    OK(portcullis_engine_free(engine));
}

/* Connections go on in another engine, if its policies allow them. */
static void restarts(void) {
    portcullis_engine *before = NULL, *after = NULL;
    portcullis_judge *judge = NULL;
    portcullis_restored restored;
    uint8_t frame[TCP_FRAME];
    portcullis_packet packet;
    portcullis_judgement out;
    char bytes[4096];
    FILE *file = tmpfile();
    uint32_t saved = 99;
    size_t len;
    int round;

    CHECK(file != NULL);
    OK(portcullis_engine_new(NULL, &before));
    OK(apply(before, CLUSTER, POLICIES));
    OK(portcullis_judge_new(before, &judge));
    tcp_frame(frame, 1, 40000, 2, 5432, SYN, 100, 0);
    packet = packet_of(frame);
    OK(portcullis_judge_packets(judge, 0, &packet, 1, &out));
    CHECK(out.state == 1);
    OK(portcullis_engine_save_connections(before, fileno(file), &saved));
    CHECK(saved == 1);
    WRONG(portcullis_engine_error, before, PORTCULLIS_BAD_VALUE, "descriptor -1",
          portcullis_engine_save_connections(before, -1, &saved));
    WRONG(portcullis_engine_error, before, PORTCULLIS_SYSTEM, "cannot be saved",
          portcullis_engine_save_connections(before, 1000000, &saved));
    OK(portcullis_judge_free(judge));
    OK(portcullis_engine_free(before));

    memset(&restored, 0, sizeof restored);
    for (round = 0; round < 2; round++) {
        OK(portcullis_engine_new(NULL, &after));
        OK(apply(after, CLUSTER, round == 0 ? POLICIES : "{apiVersion: networking.k8s.io/v1,"
                 " kind: NetworkPolicy, metadata: {name: shut, namespace: shop},"
                 " spec: {podSelector: {}}}"));
        rewind(file);
        STATUS(PORTCULLIS_BAD_SIZE,
               portcullis_engine_restore_connections(after, fileno(file), 0,
                                                     (restored.struct_size = 3, &restored)));
        restored.struct_size = sizeof restored;
        WRONG(portcullis_engine_error, after, PORTCULLIS_BAD_VALUE, "windows 2",
              portcullis_engine_restore_connections(after, fileno(file), 2, &restored));
        OK(portcullis_engine_restore_connections(after, fileno(file), PORTCULLIS_WINDOWS_HOLD,
                                                 &restored));
        CHECK(restored.restored == 1 && restored.left_out == 0 && restored.age_ms < 60000);
        OK(portcullis_judge_new(after, &judge));
        tcp_frame(frame, 2, 5432, 1, 40000, SYN_ACK, 500, 101);
        OK(portcullis_judge_packets(judge, 0, &packet, 1, &out));
        CHECK(out.verdict == (round == 0 ? PORTCULLIS_ALLOW : PORTCULLIS_DENY));
        OK(portcullis_judge_free(judge));
        if (round == 0)
            OK(portcullis_engine_free(after));
    }
    /* A file that is damaged, or none, gives nothing. */
    rewind(file);
    len = fread(bytes, 1, sizeof bytes, file);
    CHECK(len > 100 && fseek(file, 40, SEEK_SET) == 0);
    CHECK(fputc(bytes[40] ^ 1, file) != EOF && fflush(file) == 0);
    rewind(file);
    STATUS(PORTCULLIS_BAD_FILE,
           portcullis_engine_restore_connections(after, fileno(file), 0, &restored));
    OK(portcullis_engine_error(after, text, sizeof text, &needed));
    CHECK(strstr(text, "start without") != NULL);
    STATUS(PORTCULLIS_BAD_FILE, portcullis_engine_restore_connections(after, fileno(file), 0, NULL));
    STATUS(PORTCULLIS_SYSTEM, portcullis_engine_restore_connections(after, 1000000, 0, NULL));
    CHECK(fclose(file) == 0);
    OK(portcullis_engine_free(after));
}

int main(void) {
    restarts();
    zones();
    rates();
    settings();
    records();
    puts("options: ok");
    return 0;
}
