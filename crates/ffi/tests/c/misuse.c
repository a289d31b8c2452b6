/* Whatever can be wrong and noticed is answered with a status. */
#include "support.h"
#include <pthread.h>

static struct portcullis_judge *shared_judge;
static uint8_t shared_frame[TCP_FRAME];

/* Two threads on one judge: each call succeeds or says that the judge is busy. */
static void *hammer(void *busy) {
    struct portcullis_packet packets[256];
    struct portcullis_judgement out[256];
    int i;
    for (i = 0; i < 256; i++)
        packets[i] = packet_of(shared_frame);
    for (i = 0; i < 300; i++) {
        int32_t status = portcullis_judge_packets(shared_judge, 0, packets, 256, out);
        CHECK(status == PORTCULLIS_OK || status == PORTCULLIS_BUSY);
        if (status == PORTCULLIS_BUSY)
            ++*(int *)busy;
    }
    return NULL;
}

/* One thread frees what another uses. */
static void *use_until_gone(void *engine) {
    struct portcullis_totals totals;
    int32_t status;
    totals.struct_size = sizeof totals;
    do
        status = portcullis_engine_totals((struct portcullis_engine *)engine, &totals);
    while (status == PORTCULLIS_OK);
    CHECK(status == PORTCULLIS_BAD_HANDLE);
    return NULL;
}

static void handles(struct portcullis_engine *engine, struct portcullis_judge *judge) {
    struct portcullis_engine *gone = NULL;
    struct portcullis_judge *none = NULL;
    struct portcullis_totals totals;
    size_t count;
    int on_the_stack = 0, fd;

    totals.struct_size = sizeof totals;
    STATUS(PORTCULLIS_NULL, portcullis_engine_new(NULL, NULL));
    STATUS(PORTCULLIS_NULL, portcullis_engine_totals(NULL, &totals));
    STATUS(PORTCULLIS_NULL, portcullis_engine_totals(engine, NULL));
    STATUS(PORTCULLIS_BAD_HANDLE,
           portcullis_engine_totals((struct portcullis_engine *)(void *)judge, &totals));
    STATUS(PORTCULLIS_BAD_HANDLE,
           portcullis_engine_totals((struct portcullis_engine *)(void *)&on_the_stack, &totals));
    STATUS(PORTCULLIS_BAD_HANDLE, portcullis_judge_free((struct portcullis_judge *)(void *)engine));
    STATUS(PORTCULLIS_BAD_HANDLE,
           portcullis_firewall_stop((struct portcullis_firewall *)(void *)engine));
    OK(portcullis_engine_free(NULL));
    OK(portcullis_judge_free(NULL));
    OK(portcullis_firewall_stop(NULL));

    OK(portcullis_engine_new(NULL, &gone));
    OK(portcullis_engine_free(gone));
    STATUS(PORTCULLIS_BAD_HANDLE, portcullis_engine_free(gone));
    STATUS(PORTCULLIS_BAD_HANDLE, portcullis_engine_totals(gone, &totals));
    STATUS(PORTCULLIS_BAD_HANDLE, portcullis_judge_new(gone, &none));
    STATUS(PORTCULLIS_BAD_HANDLE, portcullis_engine_error(gone, NULL, 0, &count));
    CHECK(none == NULL);
    STATUS(PORTCULLIS_NULL, portcullis_judge_new(engine, NULL));
    STATUS(PORTCULLIS_NULL, portcullis_engine_event_fd(engine, NULL));
    STATUS(PORTCULLIS_NULL, portcullis_engine_event_fd(NULL, &fd));
}

static void sizes(struct portcullis_engine *engine) {
    struct {
        struct portcullis_engine_config config;
        uint64_t later;
    } grown;
    struct portcullis_engine *made = NULL;
    struct portcullis_totals totals;
    struct portcullis_event event;
    struct portcullis_endpoint endpoint;
    size_t count = 0;

    memset(&grown, 0, sizeof grown);
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_engine_new(&grown.config, &made));
    grown.config.struct_size = 1;
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_engine_new(&grown.config, &made));
    grown.config.struct_size = (size_t)-1;
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_engine_new(&grown.config, &made));
    /* A caller that knows more than the library: fine as long as it does not use it. */
    grown.config.struct_size = sizeof grown;
    OK(portcullis_engine_new(&grown.config, &made));
    OK(portcullis_engine_free(made));
    grown.later = 1;
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_engine_new(&grown.config, &made));
    grown.later = 0;
    grown.config.on_policy_change = 77;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_new(&grown.config, &made));
    grown.config.on_policy_change = 0;
    grown.config.prove = 3;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_new(&grown.config, &made));

    totals.struct_size = 0;
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_engine_totals(engine, &totals));
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_engine_events(engine, &event, 8, 1, NULL, 0, &count));
    STATUS(PORTCULLIS_NULL,
           portcullis_engine_events(engine, &event, sizeof event, 1, NULL, 0, NULL));
    STATUS(PORTCULLIS_NULL,
           portcullis_engine_events(engine, NULL, sizeof event, 1, NULL, 0, &count));
    STATUS(PORTCULLIS_BAD_VALUE,
           portcullis_engine_events(engine, &event, sizeof event, (size_t)-1, NULL, 0, &count));
    memset(&endpoint, 0, sizeof endpoint);
    STATUS(PORTCULLIS_BAD_SIZE,
           portcullis_engine_upsert_endpoints(engine, &endpoint, 3, 1, NULL));
    STATUS(PORTCULLIS_NULL,
           portcullis_engine_upsert_endpoints(engine, &endpoint, sizeof endpoint, 1, NULL));
}

static void contents(struct portcullis_engine *engine, struct portcullis_judge *judge) {
    struct portcullis_text bad = text_of("\xff\xfe", "");
    struct portcullis_endpoint endpoint;
    struct portcullis_address address = v4(10, 0, 0, 9);
    struct portcullis_prefix prefix;
    struct portcullis_flow flow;
    struct portcullis_packet packet;
    struct portcullis_judgement out;
    struct portcullis_firewall_config wire;
    struct portcullis_firewall *firewall = NULL;
    size_t needed = 0;

    STATUS(PORTCULLIS_BAD_UTF8, portcullis_engine_apply(engine, &bad, 1, NULL, 0, NULL));
    bad.name = NULL;
    STATUS(PORTCULLIS_NULL, portcullis_engine_apply(engine, &bad, 1, NULL, 0, NULL));
    STATUS(PORTCULLIS_NULL, portcullis_engine_apply(engine, NULL, 1, NULL, 0, NULL));
    bad = text_of("text", "");
    bad.data = NULL;
    bad.len = 5;
    STATUS(PORTCULLIS_NULL, portcullis_engine_apply(engine, &bad, 1, NULL, 0, NULL));
    bad.data = (const uint8_t *)"x";
    bad.len = (size_t)-1;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_apply(engine, &bad, 1, NULL, 0, NULL));
    STATUS(PORTCULLIS_REFUSED, portcullis_engine_apply_files(engine, "/nonexistent", NULL, 0, NULL));
    STATUS(PORTCULLIS_NULL, portcullis_engine_apply_files(engine, NULL, NULL, 0, NULL));

    memset(&endpoint, 0, sizeof endpoint);
    endpoint.namespace_name = "shop";
    endpoint.name = "x";
    endpoint.addresses = &address;
    endpoint.address_count = 1;
    address.family = 5;
    STATUS(PORTCULLIS_BAD_VALUE,
           portcullis_engine_upsert_endpoints(engine, &endpoint, sizeof endpoint, 1, NULL));
    address.family = 4;
    endpoint.host_network = 9;
    STATUS(PORTCULLIS_BAD_VALUE,
           portcullis_engine_upsert_endpoints(engine, &endpoint, sizeof endpoint, 1, NULL));
    endpoint.host_network = 0;
    endpoint.label_count = 1;
    STATUS(PORTCULLIS_NULL,
           portcullis_engine_upsert_endpoints(engine, &endpoint, sizeof endpoint, 1, NULL));

    memset(&prefix, 0, sizeof prefix);
    prefix.address = v4(10, 0, 0, 0);
    prefix.length = 33;
    STATUS(PORTCULLIS_PREFIX, portcullis_engine_replace_set(engine, "x", &prefix, 1));

    memset(&flow, 0, sizeof flow);
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_judge_flows(judge, &flow, 1, &out));
    STATUS(PORTCULLIS_NULL, portcullis_engine_explain(engine, NULL, NULL, 0, &needed));
    flow.source = v4(10, 0, 0, 1);
    flow.destination.family = 6;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_explain(engine, &flow, NULL, 0, &needed));
    OK(portcullis_judge_flows(judge, &flow, 1, &out));
    CHECK(out.verdict == PORTCULLIS_DENY);

    memset(&packet, 0, sizeof packet);
    OK(portcullis_judge_packets(judge, 0, &packet, 1, &out));
    CHECK(out.verdict == PORTCULLIS_DENY);
    packet.len = 60;
    memset(&out, 0x5a, sizeof out);
    STATUS(PORTCULLIS_NULL, portcullis_judge_packets(judge, 0, &packet, 1, &out));
    CHECK(out.verdict == 0x5a);
    STATUS(PORTCULLIS_NULL, portcullis_judge_packets(judge, 0, NULL, 1, &out));
    OK(portcullis_judge_packets(judge, 0, NULL, 0, NULL));
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_judge_packets(judge, 0, &packet, (size_t)-1, &out));
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_rule(engine, 12345, NULL, 0, &needed));

    STATUS(PORTCULLIS_NULL, portcullis_firewall_start(engine, NULL, &firewall));
    memset(&wire, 0, sizeof wire);
    wire.struct_size = sizeof wire;
    wire.b = "nosuch1";
    STATUS(PORTCULLIS_NULL, portcullis_firewall_start(engine, &wire, &firewall));
    wire.a = "nosuch0";
    CHECK(portcullis_firewall_start(engine, &wire, &firewall) >= 200 && firewall == NULL);
}

int main(void) {
    struct portcullis_engine *engine = NULL;
    pthread_t threads[2];
    int busy[2] = {0, 0}, i;

    OK(portcullis_engine_new(NULL, &engine));
    OK(portcullis_judge_new(engine, &shared_judge));
    OK(apply(engine, CLUSTER, POLICIES));
    handles(engine, shared_judge);
    sizes(engine);
    contents(engine, shared_judge);
    CHECK(strcmp(portcullis_status_text(-5), "unknown status") == 0);
    CHECK(strcmp(portcullis_reason_name(254), "unknown") == 0);
    CHECK(strcmp(portcullis_reason_name(255), "none") == 0);

    tcp_frame(shared_frame, 1, 40000, 2, 5432, SYN, 1, 0);
    for (i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, hammer, &busy[i]) == 0);
    for (i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    OK(portcullis_judge_free(shared_judge));

    for (i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, use_until_gone, engine) == 0);
    OK(portcullis_engine_free(engine));
    for (i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    puts("misuse: ok");
    return 0;
}
