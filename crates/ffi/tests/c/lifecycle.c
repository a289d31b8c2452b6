/* An engine's whole life as an agent sees it. Also compiled as C++. */
#include "support.h"
#include <poll.h>

static int readable(int fd) {
    struct pollfd poll_fd;
    poll_fd.fd = fd;
    poll_fd.events = POLLIN;
    poll_fd.revents = 0;
    return poll(&poll_fd, 1, 0) == 1;
}

static uint8_t verdict_of(struct portcullis_judge *judge, uint8_t from, uint8_t to, uint16_t port) {
    struct portcullis_flow flow;
    struct portcullis_judgement judgement;
    memset(&flow, 0, sizeof flow);
    flow.source = v4(10, 0, 0, from);
    flow.destination = v4(10, 0, 0, to);
    flow.protocol = 6;
    flow.source_port = 40000;
    flow.destination_port = port;
    OK(portcullis_judge_flows(judge, &flow, 1, &judgement));
    return judgement.verdict;
}

static void endpoints(struct portcullis_engine *engine, struct portcullis_judge *judge) {
    struct portcullis_label label = {"app", "web"};
    struct portcullis_address address = v4(10, 0, 0, 3);
    struct portcullis_endpoint endpoint;
    struct portcullis_endpoint_name name = {"shop", "web-1"};
    size_t done = 99, removed = 99;

    CHECK(verdict_of(judge, 3, 2, 5432) == PORTCULLIS_DENY);
    memset(&endpoint, 0, sizeof endpoint);
    endpoint.namespace_name = "shop";
    endpoint.name = "web-1";
    endpoint.labels = &label;
    endpoint.label_count = 1;
    endpoint.addresses = &address;
    endpoint.address_count = 1;
    OK(portcullis_engine_upsert_endpoints(engine, &endpoint, sizeof endpoint, 1, &done));
    CHECK(done == 1);
    CHECK(verdict_of(judge, 3, 2, 5432) == PORTCULLIS_ALLOW);
    CHECK(verdict_of(judge, 3, 2, 22) == PORTCULLIS_DENY);
    OK(portcullis_engine_remove_endpoints(engine, &name, 1, &removed));
    CHECK(removed == 1);
    OK(portcullis_engine_remove_endpoints(engine, &name, 1, &removed));
    CHECK(removed == 0);
    CHECK(verdict_of(judge, 3, 2, 5432) == PORTCULLIS_DENY);

    /* An address that another has: refused, with a reason, and nothing changes. */
    address = v4(10, 0, 0, 2);
    STATUS(PORTCULLIS_POLICY,
           portcullis_engine_upsert_endpoints(engine, &endpoint, sizeof endpoint, 1, &done));
    CHECK(done == 0);
    {
        char text[256];
        OK(portcullis_engine_error(engine, text, sizeof text, NULL));
        CHECK(strstr(text, "10.0.0.2") != NULL);
    }
    CHECK(verdict_of(judge, 1, 2, 5432) == PORTCULLIS_ALLOW);
}

static void connections(struct portcullis_engine *engine, struct portcullis_judge *judge) {
    uint8_t frames[3][TCP_FRAME];
    struct portcullis_packet packets[3];
    struct portcullis_judgement out[3];
    struct portcullis_event events[8];
    struct portcullis_totals totals;
    uint64_t drops[64];
    char texts[2048], text[256];
    size_t count = 0, reasons = 0, i;
    int fd = -1;

    OK(portcullis_engine_event_fd(engine, &fd));
    CHECK(!readable(fd));
    tcp_frame(frames[0], 1, 40000, 2, 5432, SYN, 100, 0);
    tcp_frame(frames[1], 2, 5432, 1, 40000, SYN_ACK, 500, 101);
    tcp_frame(frames[2], 1, 40001, 2, 22, SYN, 7, 0);
    for (i = 0; i < 3; i++)
        packets[i] = packet_of(frames[i]);
    OK(portcullis_judge_packets(judge, 0, packets, 3, out));
    CHECK(out[0].verdict == PORTCULLIS_ALLOW && out[0].state == 1);
    CHECK(out[0].reason == PORTCULLIS_NO_REASON);
    CHECK(out[1].verdict == PORTCULLIS_ALLOW && out[1].state == 2);
    CHECK(out[2].verdict == PORTCULLIS_DENY);
    CHECK(strcmp(portcullis_reason_name(out[2].reason), "policy_denied") == 0);
    OK(portcullis_engine_rule(engine, out[0].rule, text, sizeof text, NULL));
    CHECK(strcmp(text, "NetworkPolicy/shop/web-to-db ingress policies.yaml:6:13") == 0);

    CHECK(readable(fd));
    OK(portcullis_engine_events(engine, events, sizeof events[0], 8, texts, sizeof texts, &count));
    CHECK(count == 2 && !readable(fd));
    CHECK(events[0].kind == PORTCULLIS_EVENT_OPENED && events[0].verdict == PORTCULLIS_ALLOW);
    CHECK(events[0].source.bytes[3] == 1 && events[0].destination_port == 5432);
    CHECK(strcmp(events[0].source_name, "shop/web-0") == 0);
    CHECK(strcmp(events[0].source_labels, "app=web") == 0);
    CHECK(strcmp(events[0].policy, "NetworkPolicy/shop/web-to-db") == 0);
    CHECK(events[1].kind == PORTCULLIS_EVENT_DROPPED && events[1].truncated == 0);

    /* A text buffer that is too small loses texts, never events. */
    OK(portcullis_judge_packets(judge, 0, &packets[2], 1, out));
    OK(portcullis_engine_events(engine, events, sizeof events[0], 8, texts, 4, &count));
    CHECK(count == 1 && events[0].truncated == 1 && events[0].policy == NULL);

    totals.struct_size = sizeof totals;
    OK(portcullis_engine_totals(engine, &totals));
    CHECK(totals.received == 4 && totals.forwarded == 2 && totals.dropped == 2);
    CHECK(totals.connections == 1 && totals.struct_size == sizeof totals);
    OK(portcullis_engine_drops(engine, drops, 64, &reasons));
    CHECK(reasons <= 64 && drops[out[0].reason] == 2);
}

static void sets_and_words(struct portcullis_engine *engine, struct portcullis_judge *judge) {
    static const char FEED[] =
        "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet,"
        " metadata: {name: feed, labels: {kind: threat}}, spec: {nets: []}}\n"
        "---\n"
        "apiVersion: projectcalico.org/v3\n"
        "kind: GlobalNetworkPolicy\n"
        "metadata: {name: drop-threats}\n"
        "spec: {selector: all(), types: [Ingress], ingress: [\n"
        "  {action: Deny, source: {selector: \"kind == 'threat'\"}}, {action: Allow}]}\n";
    struct portcullis_prefix prefix;
    struct portcullis_flow flow;
    char *text;
    size_t needed = 0;

    OK(apply(engine, CLUSTER, FEED));
    CHECK(verdict_of(judge, 77, 2, 80) == PORTCULLIS_ALLOW);
    memset(&prefix, 0, sizeof prefix);
    prefix.address = v4(10, 0, 0, 64);
    prefix.length = 26;
    OK(portcullis_engine_replace_set(engine, "GlobalNetworkSet//feed", &prefix, 1));
    CHECK(verdict_of(judge, 77, 2, 80) == PORTCULLIS_DENY);
    STATUS(PORTCULLIS_NO_SUCH_SET, portcullis_engine_replace_set(engine, "feed", &prefix, 1));

    memset(&flow, 0, sizeof flow);
    flow.source = v4(10, 0, 0, 77);
    flow.destination = v4(10, 0, 0, 2);
    flow.protocol = 6;
    flow.destination_port = 80;
    OK(portcullis_engine_explain(engine, &flow, NULL, 0, &needed));
    text = (char *)malloc(needed);
    STATUS(PORTCULLIS_TOO_SMALL, portcullis_engine_explain(engine, &flow, text, 3, NULL));
    OK(portcullis_engine_explain(engine, &flow, text, needed, NULL));
    CHECK(strlen(text) + 1 == needed && strstr(text, "drop-threats") != NULL);
    free(text);
    OK(portcullis_engine_replace_endpoints(engine, NULL, sizeof(struct portcullis_endpoint), 0));
}

int main(void) {
    struct portcullis_engine *engine = NULL, *other = NULL;
    struct portcullis_engine_config config;
    struct portcullis_judge *judge = NULL;
    char text[512];

    CHECK(portcullis_abi_version() == PORTCULLIS_ABI_VERSION);
    CHECK(portcullis_version()[0] != '\0');
    memset(&config, 0, sizeof config);
    config.struct_size = sizeof config;
    config.prove = 1;
    OK(portcullis_engine_new(&config, &engine));
    OK(portcullis_engine_new(NULL, &other));
    OK(portcullis_judge_new(engine, &judge));
    CHECK(verdict_of(judge, 1, 2, 5432) == PORTCULLIS_DENY);

    STATUS(PORTCULLIS_REFUSED, apply(engine, CLUSTER, "kind: ["));
    OK(portcullis_engine_error(engine, text, sizeof text, NULL));
    CHECK(strstr(text, "policies.yaml:") != NULL);

    OK(apply(engine, CLUSTER, POLICIES));
    CHECK(verdict_of(judge, 1, 2, 5432) == PORTCULLIS_ALLOW);
    STATUS(PORTCULLIS_REFUSED, apply(engine, CLUSTER, "kind: Nonsense"));
    CHECK(verdict_of(judge, 1, 2, 5432) == PORTCULLIS_ALLOW);

    connections(engine, judge);
    endpoints(engine, judge);
    sets_and_words(engine, judge);

    /* The judge outlives its engine. */
    OK(portcullis_engine_free(engine));
    CHECK(verdict_of(judge, 1, 99, 5432) == PORTCULLIS_ALLOW);
    OK(portcullis_judge_free(judge));
    OK(portcullis_engine_free(other));
    puts("lifecycle: ok");
    return 0;
}
