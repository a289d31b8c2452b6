/* What an agent changes and asks beside packets: documents, sets, numbers, owners, frames to send. */
#include "support.h"

/* The text of a call that takes a buffer, to be freed. */
#define TEXT(text, call)                                                                           \
    do {                                                                                           \
        size_t needed_ = 0;                                                                        \
        char *buffer = NULL;                                                                       \
        size_t size = 0, *needed = &needed_;                                                       \
        OK(call);                                                                                  \
        CHECK(needed_ > 0);                                                                        \
        buffer = (char *)malloc(needed_);                                                          \
        CHECK(buffer != NULL);                                                                     \
        size = needed_;                                                                            \
        OK(call);                                                                                  \
        CHECK(strlen(buffer) + 1 == needed_);                                                      \
        (text) = buffer;                                                                           \
    } while (0)

static const char SETS[] =
    "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet,"
    " metadata: {name: feed, labels: {kind: threat}}, spec: {nets: [192.0.2.0/24]}}\n"
    "---\n"
    "apiVersion: projectcalico.org/v3\n"
    "kind: GlobalNetworkPolicy\n"
    "metadata: {name: drop-threats}\n"
    "spec: {selector: all(), types: [Ingress], ingress: [\n"
    "  {action: Deny, source: {selector: \"kind == 'threat'\"}}, {action: Allow}]}\n";

static uint8_t verdict_of(portcullis_judge *judge, portcullis_address from, uint16_t port) {
    portcullis_flow flow;
    portcullis_judgement judgement;
    memset(&flow, 0, sizeof flow);
    flow.source = from;
    flow.destination = v4(10, 0, 0, 2);
    flow.protocol = 6;
    flow.destination_port = port;
    OK(portcullis_judge_flows(judge, &flow, 1, &judgement));
    return judgement.verdict;
}

static void documents(portcullis_engine *engine, portcullis_judge *judge) {
    /* db is at another address, and there is a third pod. */
    static const char MOVED[] =
        "{apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: shop, labels: {app: web}},"
        " status: {podIP: 10.0.0.7}}\n"
        "---\n"
        "{apiVersion: v1, kind: Pod, metadata: {name: db-0, namespace: shop, labels: {app: db}},"
        " status: {podIP: 10.0.0.2}}\n"
        "---\n"
        "{apiVersion: v1, kind: Pod, metadata: {name: db-1, namespace: shop, labels: {app: db}},"
        " status: {podIP: 10.0.0.3}}\n";
    portcullis_text cluster = text_of("moved.yaml", MOVED);
    portcullis_text policies = text_of("policies.yaml", POLICIES);
    portcullis_text broken = text_of("broken.yaml", "kind: [");
    portcullis_applied applied;
    uint64_t regions = 0;
    size_t changes = 99, before;
    char *text;

    memset(&applied, 0, sizeof applied);
    applied.struct_size = sizeof applied;
    OK(portcullis_engine_applied(engine, &applied));
    CHECK(applied.generation == 1 && applied.policies == 1 && applied.endpoints == 2);
    CHECK(applied.identities >= 2);
    OK(portcullis_engine_prove(engine, &regions));
    CHECK(regions > 0);
    OK(portcullis_engine_prove(engine, NULL));

    /* The same documents change nothing; none at all open what was denied. */
    TEXT(text, portcullis_engine_diff(engine, NULL, 0, &policies, 1, buffer, size, needed, &changes));
    CHECK(changes == 0);
    free(text);
    TEXT(text, portcullis_engine_diff(engine, NULL, 0, NULL, 0, buffer, size, needed, &changes));
    CHECK(changes > 0 && strstr(text, "db") != NULL);
    free(text);
    before = changes;
    STATUS(PORTCULLIS_REFUSED, portcullis_engine_diff(engine, NULL, 0, &broken, 1, NULL, 0, &changes,
                                                      &changes));
    CHECK(changes == before);
    TEXT(text, portcullis_engine_error(engine, buffer, size, needed));
    CHECK(strstr(text, "broken.yaml:") != NULL);
    free(text);

    /* A cluster alone: policies stay, and so does everything if it is refused. */
    CHECK(verdict_of(judge, v4(10, 0, 0, 1), 5432) == PORTCULLIS_ALLOW);
    STATUS(PORTCULLIS_REFUSED, portcullis_engine_set_cluster(engine, &broken, 1, &applied));
    CHECK(verdict_of(judge, v4(10, 0, 0, 1), 5432) == PORTCULLIS_ALLOW);
    OK(portcullis_engine_set_cluster(engine, &cluster, 1, &applied));
    CHECK(applied.generation == 2 && applied.policies == 1 && applied.endpoints == 3);
    CHECK(verdict_of(judge, v4(10, 0, 0, 1), 5432) == PORTCULLIS_DENY);
    CHECK(verdict_of(judge, v4(10, 0, 0, 7), 5432) == PORTCULLIS_ALLOW);
    applied.struct_size = 3;
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_engine_set_cluster(engine, NULL, 0, &applied));
    CHECK(verdict_of(judge, v4(10, 0, 0, 7), 5432) == PORTCULLIS_ALLOW);

    /* Warnings are of the documents that were applied last. */
    TEXT(text, portcullis_engine_warnings(engine, buffer, size, needed));
    CHECK(text[0] == '\0');
    free(text);
    OK(apply(engine, CLUSTER,
             "apiVersion: projectcalico.org/v3\n"
             "kind: GlobalNetworkPolicy\n"
             "metadata: {name: one}\n"
             "spec: {order: 5, selector: all(), types: [Ingress], ingress: [{action: Allow}]}\n"
             "---\n"
             "apiVersion: projectcalico.org/v3\n"
             "kind: GlobalNetworkPolicy\n"
             "metadata: {name: two}\n"
             "spec: {order: 5, selector: all(), types: [Ingress], egress: [{action: Deny}]}\n"));
    TEXT(text, portcullis_engine_warnings(engine, buffer, size, needed));
    CHECK(strstr(text, "policies.yaml:") != NULL && strstr(text, "warning:") != NULL);
    free(text);
}

static void sets(portcullis_engine *engine, portcullis_judge *judge) {
    portcullis_address inside = v4(192, 0, 2, 1), beyond = v4(198, 51, 100, 1);
    portcullis_prefix prefix;
    int forgotten = 77;
    char *text;

    OK(apply(engine, CLUSTER, SETS));
    TEXT(text, portcullis_engine_sets(engine, buffer, size, needed));
    CHECK(strcmp(text, "1 GlobalNetworkSet//feed") == 0);
    free(text);
    OK(portcullis_engine_forget_set(engine, "GlobalNetworkSet//feed", &forgotten));
    CHECK(forgotten == 0);
    memset(&prefix, 0, sizeof prefix);
    prefix.address = beyond;
    prefix.length = 24;
    OK(portcullis_engine_replace_set(engine, "GlobalNetworkSet//feed", &prefix, 1));
    CHECK(verdict_of(judge, inside, 80) == PORTCULLIS_ALLOW);
    CHECK(verdict_of(judge, beyond, 80) == PORTCULLIS_DENY);
    /* It keeps its content, until the documents may speak again. */
    OK(apply(engine, CLUSTER, SETS));
    CHECK(verdict_of(judge, beyond, 80) == PORTCULLIS_DENY);
    OK(portcullis_engine_forget_set(engine, "GlobalNetworkSet//feed", &forgotten));
    CHECK(forgotten == 1);
    OK(portcullis_engine_forget_set(engine, "GlobalNetworkSet//feed", NULL));
    CHECK(verdict_of(judge, beyond, 80) == PORTCULLIS_DENY);
    OK(apply(engine, CLUSTER, SETS));
    CHECK(verdict_of(judge, beyond, 80) == PORTCULLIS_ALLOW);
    CHECK(verdict_of(judge, inside, 80) == PORTCULLIS_DENY);
    STATUS(PORTCULLIS_NULL, portcullis_engine_forget_set(engine, NULL, &forgotten));
}

static void numbers(portcullis_engine *engine, portcullis_judge *judge) {
    uint8_t frames[4][TCP_FRAME];
    portcullis_packet packets[4];
    portcullis_judgement out[4];
    portcullis_rule_totals rules[8], *rule = NULL;
    portcullis_connection open[4];
    uint64_t bounds[32], counts[32], sum = 99;
    size_t count = 0, n;
    char text[256];

    OK(apply(engine, CLUSTER, POLICIES));
    tcp_frame(frames[0], 1, 40000, 2, 5432, SYN, 100, 0);
    tcp_frame(frames[1], 2, 5432, 1, 40000, SYN_ACK, 500, 101);
    tcp_frame(frames[2], 1, 40001, 2, 22, SYN, 7, 0);
    tcp_frame(frames[3], 1, 40002, 2, 22, SYN, 7, 0);
    for (n = 0; n < 4; n++)
        packets[n] = packet_of(frames[n]);
    OK(portcullis_judge_packets(judge, 0, packets, 4, out));
    OK(portcullis_engine_rule_totals(engine, rules, sizeof rules[0], 8, &count));
    CHECK(count >= 1 && count <= 8);
    for (n = 0; n < count; n++)
        if (rules[n].rule == out[0].rule)
            rule = &rules[n];
    CHECK(rule != NULL && rule->passed == 2 && rule->passed_bytes == 2 * TCP_FRAME);
    CHECK(rule->refused == 0 && rule->reserved == 0);
    for (rule = NULL, n = 0; n < count; n++)
        if (rules[n].rule == out[2].rule)
            rule = &rules[n];
    CHECK(rule != NULL && rule->refused == 2 && rule->refused_bytes == 2 * TCP_FRAME);
    /* No room: how many there are all the same. */
    n = 0;
    OK(portcullis_engine_rule_totals(engine, NULL, sizeof rules[0], 0, &n));
    CHECK(n == count);
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_engine_rule_totals(engine, rules, 3, 8, &count));
    STATUS(PORTCULLIS_NULL, portcullis_engine_rule_totals(engine, rules, sizeof rules[0], 8, NULL));

    OK(portcullis_engine_connections(engine, open, sizeof open[0], 4, &count));
    CHECK(count == 1 && open[0].protocol == 6 && open[0].rule == out[0].rule);
    CHECK(open[0].source.bytes[3] == 1 && open[0].source_port == 40000);
    CHECK(open[0].destination.bytes[3] == 2 && open[0].destination_port == 5432);
    CHECK(open[0].packets[0] == 1 && open[0].packets[1] == 1 && open[0].bytes[0] == 40);
    OK(portcullis_engine_connections(engine, NULL, sizeof open[0], 0, &count));
    CHECK(count == 1);
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_engine_connections(engine, open, 1, 4, &count));

    OK(portcullis_engine_rounds(engine, bounds, counts, 32, &count, &sum));
    CHECK(count > 2 && count <= 32 && bounds[0] < bounds[1] && bounds[count - 1] == UINT64_MAX);
    CHECK(sum == 0 && counts[0] == 0); /* there is no worker */
    OK(portcullis_engine_rounds(engine, NULL, NULL, 0, &count, NULL));
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_rounds(engine, bounds, bounds, 4, &count, NULL));

    {
        portcullis_address address = v4(10, 0, 0, 1), found[2];
        OK(portcullis_engine_owner(engine, &address, text, sizeof text, NULL));
        CHECK(strcmp(text, "shop/web-0") == 0);
        address = v4(203, 0, 113, 1);
        OK(portcullis_engine_owner(engine, &address, text, sizeof text, NULL));
        CHECK(text[0] == '\0');
        STATUS(PORTCULLIS_NULL, portcullis_engine_owner(engine, NULL, text, sizeof text, NULL));
        address.family = 9;
        STATUS(PORTCULLIS_BAD_VALUE,
               portcullis_engine_owner(engine, &address, text, sizeof text, NULL));
        OK(portcullis_engine_addresses(engine, "shop", "db-0", found, 2, &count));
        CHECK(count == 1 && found[0].family == 4 && found[0].bytes[3] == 2);
        OK(portcullis_engine_addresses(engine, "shop", "db-0", NULL, 0, &count));
        CHECK(count == 1);
        STATUS(PORTCULLIS_BAD_VALUE,
               portcullis_engine_addresses(engine, "shop", "nobody", found, 2, &count));
        STATUS(PORTCULLIS_NULL, portcullis_engine_addresses(engine, NULL, "x", found, 2, &count));
    }
}

/* Two pieces of a UDP packet, the second of which comes first: it is held, then released. */
static void frames_to_send(portcullis_engine *engine) {
    static const char REJECT[] =
        "apiVersion: projectcalico.org/v3\n"
        "kind: GlobalNetworkPolicy\n"
        "metadata: {name: reject}\n"
        "spec: {selector: all(), types: [Ingress], ingress: [\n"
        "  {action: Allow, protocol: UDP}, {action: Deny}]}\n";
    uint8_t first[14 + 20 + 16], second[14 + 20 + 8], bytes[256];
    portcullis_packet packets[2];
    portcullis_judgement out[2];
    portcullis_frame frames[4];
    portcullis_judge *judge = NULL;
    size_t count = 99, waiting = 99;

    OK(apply(engine, CLUSTER, REJECT));
    OK(portcullis_judge_new(engine, &judge));
    memset(first, 0, sizeof first);
    first[12] = 8;
    first[14] = 0x45;
    first[17] = 36;
    first[19] = 7;    /* identification */
    first[20] = 0x20; /* more fragments */
    first[22] = 64;
    first[23] = 17;
    first[26] = first[30] = 10;
    first[29] = 1;
    first[33] = 2;
    first[35] = 99;
    first[37] = 53;
    first[39] = 24;
    memcpy(second, first, sizeof second);
    second[17] = 28;
    second[20] = 0;
    second[21] = 2; /* from byte 16 on */
    packets[0].data = second;
    packets[0].len = packets[0].wire_len = sizeof second;
    packets[1].data = first;
    packets[1].len = packets[1].wire_len = sizeof first;
    OK(portcullis_judge_packets(judge, 0, packets, 1, out));
    CHECK(out[0].verdict == PORTCULLIS_DENY);
    CHECK(strcmp(portcullis_reason_name(out[0].reason), "fragment_held") == 0);
    OK(portcullis_judge_frames(judge, NULL, sizeof frames[0], 0, NULL, 0, &count, &waiting));
    CHECK(count == 0 && waiting == 0);
    OK(portcullis_judge_packets(judge, 0, &packets[1], 1, out));
    CHECK(out[0].verdict == PORTCULLIS_ALLOW);
    OK(portcullis_judge_frames(judge, NULL, sizeof frames[0], 0, NULL, 0, &count, &waiting));
    CHECK(count == 0 && waiting == 1);
    STATUS(PORTCULLIS_TOO_SMALL,
           portcullis_judge_frames(judge, frames, sizeof frames[0], 4, bytes, 5, &count, &waiting));
    OK(portcullis_judge_frames(judge, frames, sizeof frames[0], 4, bytes, sizeof bytes, &count,
                               &waiting));
    CHECK(count == 1 && waiting == 0 && frames[0].kind == PORTCULLIS_FRAME_RELEASED);
    CHECK(frames[0].len == sizeof second && memcmp(frames[0].data, second, sizeof second) == 0);
    OK(portcullis_judge_free(judge));
}

/* Captures without a worker have nothing to tell, and know it. */
static void captures(portcullis_engine *engine) {
    portcullis_capture *open[9];
    portcullis_capture_filter filter;
    portcullis_captured packet;
    portcullis_address address = v4(10, 0, 0, 1);
    uint64_t lost = 9, over = 9;
    uint8_t bytes[64], reason = 250;
    size_t count = 9, waiting = 9, n;
    char text[128];

    for (n = 0; n < 8; n++)
        OK(portcullis_capture_new(engine, NULL, &open[n]));
    open[8] = NULL;
    STATUS(PORTCULLIS_SYSTEM, portcullis_capture_new(engine, NULL, &open[8]));
    CHECK(open[8] == NULL);
    OK(portcullis_engine_error(engine, text, sizeof text, NULL));
    CHECK(strstr(text, "8 captures") != NULL);
    OK(portcullis_capture_free(open[7]));
    STATUS(PORTCULLIS_BAD_HANDLE, portcullis_capture_free(open[7]));
    memset(&filter, 0, sizeof filter);
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_capture_new(engine, &filter, &open[7]));
    filter.struct_size = sizeof filter;
    filter.verdicts = 8;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_capture_new(engine, &filter, &open[7]));
    filter.verdicts = 1 << PORTCULLIS_DENY;
    filter.reasons = &reason;
    filter.reason_count = 1;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_capture_new(engine, &filter, &open[7]));
    reason = 0;
    filter.address_count = 1;
    STATUS(PORTCULLIS_NULL, portcullis_capture_new(engine, &filter, &open[7]));
    filter.addresses = &address;
    filter.snap = 60;
    OK(portcullis_capture_new(engine, &filter, &open[7]));
    OK(portcullis_capture_allow(open[7], 10));
    OK(portcullis_capture_set_filter(open[7], NULL));
    filter.verdicts = 99;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_capture_set_filter(open[7], &filter));
    OK(portcullis_capture_packets(open[7], &packet, sizeof packet, 1, bytes, sizeof bytes, &count,
                                  &waiting));
    CHECK(count == 0 && waiting == 0);
    STATUS(PORTCULLIS_BAD_SIZE,
           portcullis_capture_packets(open[7], &packet, 2, 1, bytes, sizeof bytes, &count, NULL));
    STATUS(PORTCULLIS_NULL, portcullis_capture_packets(open[7], NULL, sizeof packet, 1, bytes,
                                                       sizeof bytes, &count, NULL));
    OK(portcullis_capture_lost(open[7], &lost, &over));
    CHECK(lost == 0 && over == 0);
    OK(portcullis_capture_error(open[7], text, sizeof text, NULL));
    for (n = 0; n < 8; n++)
        OK(portcullis_capture_free(open[n]));
    STATUS(PORTCULLIS_NULL, portcullis_capture_allow(NULL, 1));
    STATUS(PORTCULLIS_BAD_HANDLE, portcullis_capture_allow((portcullis_capture *)(void *)engine, 1));
}

/* Reads all records; answers how many have this text. */
static size_t records_with(portcullis_recorder *recorder, const char *wanted) {
    static char text[1 << 16];
    size_t written = 0, found = 0;
    uint64_t lost = 9;
    do {
        char *line, *end;
        OK(portcullis_recorder_read(recorder, text, sizeof text - 1, &written, &lost));
        CHECK(lost == 0 && (written == 0 || text[written - 1] == '\n'));
        text[written] = '\0';
        CHECK(strlen(text) == written);
        for (line = text; (end = strchr(line, '\n')) != NULL; line = end + 1) {
            *end = '\0';
            CHECK(line[0] == '{' && end[-1] == '}');
            found += strstr(line, wanted) != NULL;
        }
    } while (written > 0);
    return found;
}

/* Policies beside those in force, and records of what became of flows. */
static void stage_and_record(void) {
    portcullis_engine *engine = NULL;
    portcullis_judge *judge = NULL;
    portcullis_recorder *recorder = NULL;
    portcullis_recorder_config config;
    portcullis_text staged = text_of("staged.yaml", POLICIES), broken = text_of("b.yaml", "kind: [");
    uint8_t frames[2][TCP_FRAME];
    portcullis_packet packets[2];
    portcullis_judgement out[2];
    portcullis_event events[4];
    portcullis_totals totals;
    char text[2048];
    size_t count = 99;

    OK(portcullis_engine_new(NULL, &engine));
    OK(portcullis_judge_new(engine, &judge));
    OK(apply(engine, CLUSTER, ""));
    OK(portcullis_engine_staged(engine, &count));
    CHECK(count == 0);
    OK(portcullis_engine_unstage(engine));
    STATUS(PORTCULLIS_REFUSED, portcullis_engine_stage(engine, &broken, 1));
    OK(portcullis_engine_stage(engine, &staged, 1));
    OK(portcullis_engine_staged(engine, &count));
    CHECK(count == 1);
    tcp_frame(frames[0], 1, 40000, 2, 5432, SYN, 1, 0);
    tcp_frame(frames[1], 1, 40000, 2, 22, SYN, 1, 0);
    packets[0] = packet_of(frames[0]);
    packets[1] = packet_of(frames[1]);
    OK(portcullis_judge_packets(judge, 0, packets, 2, out));
    CHECK(out[0].verdict == PORTCULLIS_ALLOW && out[1].verdict == PORTCULLIS_ALLOW);
    OK(portcullis_engine_events(engine, events, sizeof events[0], 4, text, sizeof text, &count));
    CHECK(count == 2 && events[0].staged == 0 && events[0].staged_policy == NULL);
    CHECK(events[1].staged == 2 && strstr(events[1].staged_policy, "web-to-db") != NULL);
    CHECK(strncmp(events[1].staged_origin, "staged.yaml:", 12) == 0);
    CHECK(events[1].packets[0] == 1 && events[1].bytes[0] == 40 && events[1].tcp_flags == SYN);
    CHECK(events[1].zone == 0 && events[1].close == 0 && events[1].since <= events[1].last_seen);
    memset(&totals, 0, sizeof totals);
    totals.struct_size = sizeof totals;
    OK(portcullis_engine_totals(engine, &totals));
    CHECK(totals.staged == 2 && totals.staged_denies == 1 && totals.staged_allows == 0);
    OK(portcullis_engine_unstage(engine));
    OK(portcullis_engine_staged(engine, &count));
    CHECK(count == 0);

    memset(&config, 0, sizeof config);
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_recorder_new(engine, &config, &recorder));
    config.struct_size = sizeof config;
    config.keep = "some";
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_recorder_new(engine, &config, &recorder));
    OK(portcullis_engine_error(engine, text, sizeof text, NULL));
    CHECK(strstr(text, "1/N") != NULL);
    config.keep = "all";
    config.capacity = 1 << 30;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_recorder_new(engine, &config, &recorder));
    config.capacity = 100;
    config.denied_ms = 3600000; /* also on a slow machine none are due of themselves */
    OK(portcullis_recorder_new(engine, &config, &recorder));
    OK(apply(engine, CLUSTER, POLICIES));
    tcp_frame(frames[0], 1, 40001, 2, 5432, SYN, 1, 0);
    tcp_frame(frames[1], 1, 40001, 2, 22, SYN, 1, 0);
    OK(portcullis_judge_packets(judge, 0, packets, 2, out));
    CHECK(out[0].verdict == PORTCULLIS_ALLOW && out[1].verdict == PORTCULLIS_DENY);
    STATUS(PORTCULLIS_TOO_SMALL, portcullis_recorder_read(recorder, text, 5, &count, NULL));
    STATUS(PORTCULLIS_NULL, portcullis_recorder_read(recorder, text, 5, NULL, NULL));
    CHECK(records_with(recorder, "5432") == 1);
    /* Denials are summed up, until somebody wants them. */
    OK(portcullis_recorder_finish(recorder));
    CHECK(records_with(recorder, "policy_denied") == 1);
    OK(portcullis_recorder_error(recorder, text, sizeof text, NULL));
    OK(portcullis_engine_free(engine)); /* the recorder outlives it */
    CHECK(records_with(recorder, "{") == 0);
    OK(portcullis_recorder_free(recorder));
    STATUS(PORTCULLIS_BAD_HANDLE, portcullis_recorder_free(recorder));
    OK(portcullis_judge_free(judge));
}

static void settings(void) {
    portcullis_engine_config config;
    portcullis_engine *engine = NULL;
    portcullis_judge *judge = NULL;
    uint8_t frame[TCP_FRAME];
    portcullis_packet packet;
    portcullis_judgement out;

    memset(&config, 0, sizeof config);
    config.struct_size = sizeof config;
    config.evict_when_full = 2;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_new(&config, &engine));
    config.evict_when_full = 1;
    config.identity_new_per_second = 5000000;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_new(&config, &engine));
    config.identity_new_per_second = 0;
    config.identity_connections = 1;
    config.tcp_timeout_ms = 1000;
    config.udp_timeout_ms = 1000;
    config.retention_ms = 1000;
    config.rejects_per_second = 5;
    OK(portcullis_engine_new(&config, &engine));
    OK(apply(engine, CLUSTER, POLICIES));
    OK(portcullis_judge_new(engine, &judge));
    tcp_frame(frame, 1, 40000, 2, 5432, SYN, 1, 0);
    packet = packet_of(frame);
    OK(portcullis_judge_packets(judge, 0, &packet, 1, &out));
    CHECK(out.verdict == PORTCULLIS_ALLOW);
    /* The second connection of the identity is one too many. */
    tcp_frame(frame, 1, 40001, 2, 5432, SYN, 1, 0);
    OK(portcullis_judge_packets(judge, 0, &packet, 1, &out));
    CHECK(out.verdict == PORTCULLIS_DENY);
    CHECK(strstr(portcullis_reason_name(out.reason), "limit") != NULL ||
          strstr(portcullis_reason_name(out.reason), "quota") != NULL);
    OK(portcullis_judge_free(judge));
    OK(portcullis_engine_free(engine));
}

int main(void) {
    portcullis_engine *engine = NULL;
    portcullis_judge *judge = NULL;

    OK(portcullis_engine_new(NULL, &engine));
    OK(portcullis_judge_new(engine, &judge));
    OK(apply(engine, CLUSTER, POLICIES));
    documents(engine, judge);
    sets(engine, judge);
    numbers(engine, judge);
    frames_to_send(engine);
    captures(engine);
    stage_and_record();
    settings();
    OK(portcullis_judge_free(judge));
    OK(portcullis_engine_free(engine));
    puts("control: ok");
    return 0;
}
