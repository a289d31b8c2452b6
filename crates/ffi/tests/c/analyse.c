/* Questions about all flows at once, rules in parts, what was counted. */
#include "values.h"

static portcullis_flow flow_of(uint16_t port) {
    portcullis_flow flow;
    memset(&flow, 0, sizeof flow);
    flow.source = v4(10, 0, 0, 1);
    flow.destination = v4(10, 0, 0, 2);
    flow.protocol = 6;
    flow.source_port = 40000;
    flow.destination_port = port;
    return flow;
}

static void questions(portcullis_engine *engine) {
    portcullis_text policies = text_of("policies.yaml", POLICIES), broken = text_of("b.yaml", "kind: [");
    portcullis_text useless = text_of("useless.yaml", "{apiVersion: networking.k8s.io/v1,"
                                      " kind: NetworkPolicy, metadata: {name: nobody, namespace: shop},"
                                      " spec: {podSelector: {matchLabels: {app: nosuch}}}}");
    portcullis_flow flow = flow_of(22);
    size_t findings = 99;

    TEXT_OF(portcullis_engine_explain_json(engine, &flow, text, sizeof text, &needed));
    CHECK(text[0] == '{' && strstr(text, "\"verdict\":\"deny\"") != NULL);
    CHECK(strstr(text, "\"pod\":\"shop/db-0\"") != NULL);
    flow.source.family = 6;
    STATUS(PORTCULLIS_BAD_VALUE,
           portcullis_engine_explain_json(engine, &flow, text, sizeof text, &needed));

    TEXT_OF(portcullis_engine_diff_json(engine, NULL, 0, &policies, 1, text, sizeof text, &needed));
    CHECK(strcmp(text, "{\"changes\":[]}") == 0);
    TEXT_OF(portcullis_engine_diff_json(engine, NULL, 0, NULL, 0, text, sizeof text, &needed));
    CHECK(strstr(text, "\"sources\":{") != NULL && strstr(text, "shop/db-0") != NULL);
    STATUS(PORTCULLIS_REFUSED,
           portcullis_engine_diff_json(engine, NULL, 0, &broken, 1, text, sizeof text, &needed));

    TEXT_OF(portcullis_engine_reach(engine, "shop", "db-0", PORTCULLIS_INGRESS, 0, text, sizeof text,
                                    &needed));
    CHECK(strstr(text, "web-0") != NULL && strstr(text, "5432") != NULL);
    TEXT_OF(portcullis_engine_reach(engine, "shop", "web-0", PORTCULLIS_EGRESS, 1, text, sizeof text,
                                    &needed));
    CHECK(strstr(text, "\"way\":\"from\"") != NULL && strstr(text, "\"endpoint\":\"shop/web-0\"") != NULL);
    WRONG(portcullis_engine_error, engine, PORTCULLIS_BAD_VALUE, "shop/nobody: there is none",
          portcullis_engine_reach(engine, "shop", "nobody", 1, 0, text, sizeof text, &needed));
    STATUS(PORTCULLIS_BAD_VALUE,
           portcullis_engine_reach(engine, "shop", "db-0", 3, 0, text, sizeof text, &needed));
    STATUS(PORTCULLIS_BAD_VALUE,
           portcullis_engine_reach(engine, "shop", "db-0", 1, 2, text, sizeof text, &needed));
    STATUS(PORTCULLIS_NULL,
           portcullis_engine_reach(engine, NULL, "db-0", 1, 0, text, sizeof text, &needed));

    TEXT_OF(portcullis_engine_endpoints_json(engine, text, sizeof text, &needed));
    CHECK(text[0] == '[' && strstr(text, "\"name\":\"web-0\"") != NULL);
    CHECK(strstr(text, "\"addresses\":[\"10.0.0.2\"]") != NULL && strstr(text, "{\"app\":\"db\"}") != NULL);

    TEXT_OF(portcullis_engine_lint(engine, &useless, 1, 0, text, sizeof text, &needed, &findings));
    CHECK(findings >= 1 && strstr(text, "useless.yaml:1:1: ") != NULL);
    TEXT_OF(portcullis_engine_lint(engine, &useless, 1, 1, text, sizeof text, &needed, NULL));
    CHECK(strncmp(text, "[{", 2) == 0 && strstr(text, "\"level\":\"") != NULL);
    TEXT_OF(portcullis_engine_lint(engine, NULL, 0, 0, text, sizeof text, &needed, &findings));
    CHECK(strstr(text, "useless.yaml") == NULL);
    STATUS(PORTCULLIS_REFUSED,
           portcullis_engine_lint(engine, &broken, 1, 0, text, sizeof text, &needed, &findings));
}

static void rules(portcullis_engine *engine) {
    portcullis_judge *judge = NULL;
    portcullis_flow flows[2];
    portcullis_judgement out[2];
    portcullis_rule_info info;
    char small[8] = "small";

    OK(portcullis_judge_new(engine, &judge));
    flows[0] = flow_of(5432);
    flows[1] = flow_of(22);
    OK(portcullis_judge_flows(judge, flows, 2, out));
    memset(&info, 0, sizeof info);
    STATUS(PORTCULLIS_BAD_SIZE,
           portcullis_engine_rule_info(engine, out[0].rule, &info, text, sizeof text, &needed));
    info.struct_size = sizeof info;
    OK(portcullis_engine_rule_info(engine, out[0].rule, &info, text, sizeof text, &needed));
    CHECK(strcmp(info.policy, "NetworkPolicy/shop/web-to-db") == 0);
    CHECK(strcmp(info.tier, "default") == 0 && info.name == NULL);
    CHECK(strcmp(info.file, "policies.yaml") == 0 && info.line == 6 && info.column > 1);
    CHECK(info.index == 0 && info.tier_end == 0 && info.staged == 0);
    CHECK(info.direction == PORTCULLIS_INGRESS && info.action == PORTCULLIS_ACTION_ALLOW);
    CHECK(needed == strlen(info.policy) + strlen(info.tier) + strlen(info.file) + 3);
    OK(portcullis_engine_rule_info(engine, out[1].rule, &info, text, sizeof text, NULL));
    CHECK(info.tier_end == 1 && info.action == PORTCULLIS_ACTION_DENY);
    info.line = 77;
    STATUS(PORTCULLIS_TOO_SMALL,
           portcullis_engine_rule_info(engine, out[0].rule, &info, small, sizeof small, &needed));
    CHECK(info.line == 77 && strcmp(small, "small") == 0);
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_engine_rule_info(engine, PORTCULLIS_NO_RULE, &info, text,
                                                             sizeof text, &needed));
    OK(portcullis_judge_free(judge));
}

static void counts(portcullis_engine *engine) {
    portcullis_judge *judge = NULL;
    portcullis_recorder *recorder = NULL;
    portcullis_recorded recorded;
    portcullis_totals totals;
    uint8_t frames[2][TCP_FRAME];
    portcullis_packet packets[2];
    portcullis_judgement out[2];
    uint64_t bytes[128];
    size_t count = 0, written = 0;

    OK(portcullis_judge_new(engine, &judge));
    OK(portcullis_recorder_new(engine, NULL, &recorder));
    tcp_frame(frames[0], 1, 40000, 2, 5432, SYN, 1, 0);
    tcp_frame(frames[1], 1, 40000, 2, 22, SYN, 1, 0);
    packets[0] = packet_of(frames[0]);
    packets[1] = packet_of(frames[1]);
    OK(portcullis_judge_packets(judge, 0, packets, 2, out));
    memset(bytes, 0, sizeof bytes);
    OK(portcullis_engine_dropped_bytes(engine, bytes, 128, &count));
    CHECK(count > out[1].reason && bytes[out[1].reason] == TCP_FRAME);
    memset(&totals, 0xff, sizeof totals);
    totals.struct_size = sizeof totals;
    OK(portcullis_engine_totals(engine, &totals));
    CHECK(totals.mirrored == 0 && totals.mirror_lost == 0 && totals.copied == 0);
    CHECK(totals.events_lost_by_kind[0] == 0 && totals.events_lost_by_kind[4] == 0);
    memset(&recorded, 0, sizeof recorded);
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_recorder_recorded(recorder, &recorded));
    recorded.struct_size = sizeof recorded;
    OK(portcullis_recorder_read(recorder, text, sizeof text, &written, NULL));
    OK(portcullis_recorder_recorded(recorder, &recorded));
    CHECK(recorded.started == 1 && recorded.denied_packets == 1 && recorded.records == 1);
    CHECK(recorded.denied_waiting == 1 && recorded.denied_records == 0 && recorded.lost[0] == 0);
    OK(portcullis_recorder_finish(recorder));
    OK(portcullis_recorder_recorded(recorder, &recorded));
    CHECK(recorded.denied_waiting == 0 && recorded.denied_recorded == 1 && recorded.records_lost == 0);
    OK(portcullis_recorder_free(recorder));
    STATUS(PORTCULLIS_BAD_HANDLE, portcullis_recorder_recorded(recorder, &recorded));
    OK(portcullis_judge_free(judge));
}

int main(void) {
    portcullis_engine *engine = NULL;
    OK(portcullis_engine_new(NULL, &engine));
    OK(apply(engine, CLUSTER, POLICIES));
    questions(engine);
    rules(engine);
    counts(engine);
    OK(portcullis_engine_free(engine));
    puts("analyse: ok");
    return 0;
}
