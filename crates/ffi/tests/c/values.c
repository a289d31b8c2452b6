/* Policies and clusters that are made in code. */
#include "values.h"

static portcullis_match match_of(uint8_t kind) {
    portcullis_match match;
    memset(&match, 0, sizeof match);
    match.kind = kind;
    return match;
}

static portcullis_match labels_of(uint8_t kind, const char *selector) {
    portcullis_match match = match_of(kind);
    match.selector = selector;
    return match;
}

static portcullis_match parts_of(uint8_t kind, const portcullis_match *parts, size_t count) {
    portcullis_match match = match_of(kind);
    match.parts = parts;
    match.part_count = count;
    return match;
}

static portcullis_policy policy_of(const char *name, uint32_t tier, const portcullis_match *subject) {
    portcullis_policy policy;
    memset(&policy, 0, sizeof policy);
    policy.struct_size = sizeof policy;
    policy.name = name;
    policy.tier = tier;
    policy.subject = subject;
    policy.directions = PORTCULLIS_INGRESS;
    return policy;
}

static portcullis_rule rule_of(uint32_t policy, uint8_t action, const portcullis_match *source,
                               const portcullis_match *destination) {
    portcullis_rule rule;
    memset(&rule, 0, sizeof rule);
    rule.struct_size = sizeof rule;
    rule.policy = policy;
    rule.direction = PORTCULLIS_INGRESS;
    rule.action = action;
    rule.source = source;
    rule.destination = destination;
    rule.all_traffic = 1;
    return rule;
}

static uint8_t verdict_of(portcullis_judge *judge, portcullis_address from, uint8_t protocol,
                          uint16_t port) {
    portcullis_flow flow;
    portcullis_judgement judgement;
    memset(&flow, 0, sizeof flow);
    flow.source = from;
    flow.destination = v4(10, 0, 0, 2);
    flow.protocol = protocol;
    flow.destination_port = port;
    OK(portcullis_judge_flows(judge, &flow, 1, &judgement));
    return judgement.verdict;
}

#define REFUSED(expected, call)                                                                    \
    WRONG(portcullis_policies_error, policies, PORTCULLIS_BAD_VALUE, expected, call)

static void policies_in_code(void) {
    portcullis_engine *engine = NULL;
    portcullis_judge *judge = NULL;
    portcullis_policies *policies = NULL;
    portcullis_endpoint endpoints[2];
    portcullis_cluster cluster;
    portcullis_label ops = {"team", "ops"};
    portcullis_namespace namespaces[1];
    portcullis_service_account account;
    portcullis_node node;
    portcullis_address node_address = v4(10, 9, 0, 1);
    portcullis_match any = match_of(PORTCULLIS_MATCH_ANY), shop, web, db, parts[2], peers, feed, not_web;
    portcullis_port_range database = {NULL, 5432, 5440}, dns = {"dns", 0, 0};
    portcullis_traffic traffic[2];
    portcullis_policy policy;
    portcullis_rule rule;
    portcullis_prefix prefix;
    portcullis_applied applied;
    uint32_t tier = 99, number = 99, set = 99;
    size_t changes = 99;

    OK(portcullis_engine_new(NULL, &engine));
    OK(portcullis_judge_new(engine, &judge));
    OK(portcullis_policies_new(&policies));
    OK(portcullis_policies_add_tier(policies, "default", PORTCULLIS_TIER_DENY, &tier));
    CHECK(tier == 0);
    REFUSED("default", portcullis_policies_add_tier(policies, "default", 0, &tier));
    REFUSED("end 2", portcullis_policies_add_tier(policies, "late", 2, &tier));
    STATUS(PORTCULLIS_NULL, portcullis_policies_add_tier(policies, NULL, 0, &tier));
    STATUS(PORTCULLIS_NULL, portcullis_policies_add_tier(policies, "late", 0, NULL));
    memset(&prefix, 0, sizeof prefix);
    prefix.address = v4(198, 51, 100, 0);
    prefix.length = 24;
    OK(portcullis_policies_add_set(policies, "GlobalNetworkSet//feed", &prefix, 1, &set));
    CHECK(set == 0);
    REFUSED("feed", portcullis_policies_add_set(policies, "GlobalNetworkSet//feed", NULL, 0, &set));

    /* Pods of shop with app == 'db'. */
    shop = match_of(PORTCULLIS_MATCH_NAMESPACE);
    shop.name = "shop";
    db = labels_of(PORTCULLIS_MATCH_POD_LABELS, "app == 'db'");
    parts[0] = shop;
    parts[1] = db;
    db = parts_of(PORTCULLIS_MATCH_ALL, parts, 2);
    policy = policy_of("db", tier, &db);
    policy.namespace_name = "shop";
    policy.origin.file = "agent.c";
    policy.origin.line = 7;
    policy.origin.column = 3;
    OK(portcullis_policies_add_policy(policies, &policy, &number));
    CHECK(number == 0);
    REFUSED("NetworkPolicy/shop/db: there is one",
            portcullis_policies_add_policy(policies, &policy, &number));
    policy.name = "other";
    policy.tier = 5;
    REFUSED("NetworkPolicy/shop/other: tier 5: there are 1",
            portcullis_policies_add_policy(policies, &policy, &number));
    policy.directions = 4;
    REFUSED("other: directions 4", portcullis_policies_add_policy(policies, &policy, &number));
    policy.kind = 9;
    REFUSED("kind 9", portcullis_policies_add_policy(policies, &policy, &number));
    policy = policy_of("other", tier, NULL);
    REFUSED("NetworkPolicy//other: subject: NULL",
            portcullis_policies_add_policy(policies, &policy, &number));
    policy.struct_size = 8;
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_policies_add_policy(policies, &policy, &number));

    /* Threats come first, then the web and whoever is in a namespace of ops. */
    feed = match_of(PORTCULLIS_MATCH_SET);
    rule = rule_of(0, PORTCULLIS_ACTION_DENY, &feed, &any);
    rule.name = "threats";
    rule.origin.file = "agent.c";
    rule.origin.line = 8;
    rule.origin.column = 5;
    OK(portcullis_policies_add_rule(policies, &rule));
    web = labels_of(PORTCULLIS_MATCH_POD_LABELS, "app in {'web', 'api'}");
    parts[0] = web;
    parts[1] = match_of(PORTCULLIS_MATCH_NAMESPACE_LABELS);
    parts[1].labels = &ops;
    parts[1].label_count = 1;
    peers = parts_of(PORTCULLIS_MATCH_ONE_OF, parts, 2);
    memset(traffic, 0, sizeof traffic);
    traffic[0].protocol_match = traffic[1].protocol_match = PORTCULLIS_PROTOCOL_IS;
    traffic[0].protocol = 6;
    traffic[0].destination_ports = &database;
    traffic[0].destination_port_count = 1;
    traffic[1].protocol = 17;
    traffic[1].destination_ports = &dns;
    traffic[1].destination_port_count = 1;
    rule = rule_of(0, PORTCULLIS_ACTION_ALLOW, &peers, &any);
    rule.all_traffic = 0;
    rule.traffic = traffic;
    rule.traffic_count = 2;
    OK(portcullis_policies_add_rule(policies, &rule));

    /* What is wrong is named. */
    REFUSED("ingress rule 2: traffic: either all_traffic",
            (rule.all_traffic = 1, portcullis_policies_add_rule(policies, &rule)));
    rule.all_traffic = 0;
    REFUSED("ingress rule 2: traffic: either all_traffic",
            (rule.traffic_count = 0, portcullis_policies_add_rule(policies, &rule)));
    rule.traffic_count = 2;
    traffic[1].ip_version = 5;
    REFUSED("NetworkPolicy/shop/db: ingress rule 2: traffic 1: ip_version 5",
            portcullis_policies_add_rule(policies, &rule));
    traffic[1].ip_version = 4;
    traffic[1].icmp.icmp_type = 8;
    REFUSED("traffic 1: icmp", portcullis_policies_add_rule(policies, &rule));
    traffic[1].icmp.icmp_type = 0;
    database.first = 6000;
    REFUSED("traffic 0: ports 6000 to 5440", portcullis_policies_add_rule(policies, &rule));
    dns.first = 53;
    database.first = 5432;
    REFUSED("traffic 1: port dns has numbers", portcullis_policies_add_rule(policies, &rule));
    rule.action = 0;
    REFUSED("action: 0", portcullis_policies_add_rule(policies, &rule));
    rule = rule_of(0, PORTCULLIS_ACTION_ALLOW, &any, &any);
    rule.direction = PORTCULLIS_EGRESS;
    REFUSED("egress is not one of its directions", portcullis_policies_add_rule(policies, &rule));
    rule.direction = 3;
    REFUSED("direction 3", portcullis_policies_add_rule(policies, &rule));
    rule = rule_of(9, PORTCULLIS_ACTION_ALLOW, &any, &any);
    REFUSED("policy 9: there are 1", portcullis_policies_add_rule(policies, &rule));
    web = labels_of(PORTCULLIS_MATCH_POD_LABELS, "app = 'web'");
    rule = rule_of(0, PORTCULLIS_ACTION_ALLOW, &web, &any);
    REFUSED("source: selector `app = 'web'`: at offset 4",
            portcullis_policies_add_rule(policies, &rule));
    web.selector = "global()";
    REFUSED("source: global()", portcullis_policies_add_rule(policies, &rule));
    web.labels = &ops;
    web.label_count = 1;
    REFUSED("source: either selector or labels", portcullis_policies_add_rule(policies, &rule));
    web.selector = NULL;
    web.label_count = 0;
    STATUS(PORTCULLIS_NULL, portcullis_policies_add_rule(policies, &rule));
    feed.set = 1;
    rule = rule_of(0, PORTCULLIS_ACTION_ALLOW, &any, &feed);
    REFUSED("destination: set 1: there are 1", portcullis_policies_add_rule(policies, &rule));
    feed.set = 0;
    feed.name = "shop";
    REFUSED("destination: kind 10 has no name", portcullis_policies_add_rule(policies, &rule));
    feed = match_of(0);
    REFUSED("destination: kind 0 is none", portcullis_policies_add_rule(policies, &rule));
    feed = match_of(PORTCULLIS_MATCH_CIDR);
    feed.prefix = prefix;
    feed.prefix.length = 33;
    REFUSED("destination: prefix length 33", portcullis_policies_add_rule(policies, &rule));
    feed = parts_of(PORTCULLIS_MATCH_ALL, NULL, 0);
    REFUSED("destination: all of no parts", portcullis_policies_add_rule(policies, &rule));
    feed = parts_of(PORTCULLIS_MATCH_NOT, parts, 2);
    REFUSED("destination: 2 parts of a negation", portcullis_policies_add_rule(policies, &rule));
    /* What is made of itself ends, and so does what doubles with each level. */
    feed = parts_of(PORTCULLIS_MATCH_ALL, &feed, 1);
    REFUSED("more than 64 levels", portcullis_policies_add_rule(policies, &rule));
    {
        portcullis_match doubled[40][2];
        size_t n;
        doubled[0][0] = doubled[0][1] = any;
        for (n = 1; n < 40; n++)
            doubled[n][0] = doubled[n][1] = parts_of(PORTCULLIS_MATCH_ONE_OF, doubled[n - 1], 2);
        rule = rule_of(0, PORTCULLIS_ACTION_ALLOW, &doubled[39][0], &any);
        REFUSED("a million parts", portcullis_policies_add_rule(policies, &rule));
    }

    /* Over a cluster that is made in code too. */
    pods(endpoints);
    cluster = cluster_of(endpoints, 2);
    namespaces[0].name = "tools";
    namespaces[0].labels = &ops;
    namespaces[0].label_count = 1;
    cluster.namespaces = namespaces;
    cluster.namespace_count = 1;
    memset(&account, 0, sizeof account);
    account.namespace_name = "shop";
    account.name = "default";
    cluster.service_accounts = &account;
    cluster.service_account_count = 1;
    memset(&node, 0, sizeof node);
    node.name = "node-1";
    node.addresses = &node_address;
    node.address_count = 1;
    cluster.nodes = &node;
    cluster.node_count = 1;
    memset(&applied, 0, sizeof applied);
    applied.struct_size = sizeof applied;
    OK(portcullis_engine_apply_policies(engine, 0, &cluster, policies, &applied));
    CHECK(applied.policies == 1 && applied.endpoints == 2 && applied.generation == 1);
    OK(portcullis_engine_prove(engine, NULL));
    CHECK(verdict_of(judge, v4(10, 0, 0, 1), 6, 5432) == PORTCULLIS_ALLOW);
    CHECK(verdict_of(judge, v4(10, 0, 0, 1), 6, 5440) == PORTCULLIS_ALLOW);
    CHECK(verdict_of(judge, v4(10, 0, 0, 1), 6, 5441) == PORTCULLIS_DENY);
    CHECK(verdict_of(judge, v4(10, 0, 0, 1), 17, 5353) == PORTCULLIS_ALLOW);
    CHECK(verdict_of(judge, v4(10, 9, 0, 1), 6, 5432) == PORTCULLIS_DENY);
    {
        portcullis_flow flow;
        memset(&flow, 0, sizeof flow);
        flow.source = v4(198, 51, 100, 7);
        flow.destination = v4(10, 0, 0, 2);
        flow.protocol = 6;
        flow.destination_port = 5432;
        TEXT_OF(portcullis_engine_explain(engine, &flow, text, sizeof text, &needed));
        CHECK(strstr(text, "rule 1 (threats) of NetworkPolicy/shop/db at agent.c:8:5") != NULL);
    }
    /* A pod in a namespace of ops comes; policies are replaced, and it stays. */
    {
        portcullis_endpoint pod;
        portcullis_address address = v4(10, 0, 0, 3);
        memset(&pod, 0, sizeof pod);
        pod.namespace_name = "tools";
        pod.name = "probe";
        pod.addresses = &address;
        pod.address_count = 1;
        OK(portcullis_engine_upsert_endpoints(engine, &pod, sizeof pod, 1, NULL));
    }
    CHECK(verdict_of(judge, v4(10, 0, 0, 3), 6, 5432) == PORTCULLIS_ALLOW);
    not_web = labels_of(PORTCULLIS_MATCH_POD_LABELS, "app == 'web'");
    not_web = parts_of(PORTCULLIS_MATCH_NOT, &parts[0], 1);
    rule = rule_of(0, PORTCULLIS_ACTION_ALLOW, &not_web, &any);
    OK(portcullis_policies_add_rule(policies, &rule));
    TEXT_OF(portcullis_engine_diff_policies(engine, NULL, policies, text, sizeof text, &needed,
                                            &changes));
    CHECK(changes > 0 && strstr(text, "NEWLY ALLOWED") != NULL);
    OK(portcullis_engine_apply_policies(engine, 0, NULL, policies, &applied));
    CHECK(applied.endpoints == 3 && applied.generation == 2);
    CHECK(verdict_of(judge, v4(10, 0, 0, 3), 6, 22) == PORTCULLIS_ALLOW);
    CHECK(verdict_of(judge, v4(10, 0, 0, 1), 6, 22) == PORTCULLIS_DENY);
    TEXT_OF(portcullis_engine_diff_policies(engine, NULL, policies, text, sizeof text, &needed,
                                            &changes));
    CHECK(changes == 0);
    OK(portcullis_engine_stage_policies(engine, policies));
    OK(portcullis_engine_staged(engine, &changes));
    CHECK(changes == 1);

    /* Documents, and more in code behind them. */
    {
        portcullis_text document = text_of("policies.yaml", POLICIES);
        portcullis_text broken = text_of("broken.yaml", "kind: [");
        uint32_t tiers = 99, sets = 99, count = 99;
        WRONG(portcullis_policies_error, policies, PORTCULLIS_REFUSED, "broken.yaml:",
              portcullis_policies_read(policies, &broken, 1, &tiers, &sets, &count));
        CHECK(tiers == 99);
        OK(portcullis_policies_read(policies, &document, 1, &tiers, &sets, &count));
        CHECK(sets == 0 && count == 1 && tiers >= 1);
        rule = rule_of(0, PORTCULLIS_ACTION_ALLOW, &any, &any);
        rule.all_traffic = 0;
        rule.traffic = traffic;
        rule.traffic_count = 1;
        OK(portcullis_policies_add_rule(policies, &rule));
        OK(portcullis_engine_apply_policies(engine, 0, NULL, policies, &applied));
        CHECK(verdict_of(judge, v4(203, 0, 113, 1), 6, 5433) == PORTCULLIS_ALLOW);
        CHECK(verdict_of(judge, v4(203, 0, 113, 1), 6, 22) == PORTCULLIS_DENY);
        OK(portcullis_engine_set_policies(engine, &document, 1, &applied));
        CHECK(applied.endpoints == 3 && applied.generation == 4);
        CHECK(verdict_of(judge, v4(203, 0, 113, 1), 6, 5433) == PORTCULLIS_DENY);
        STATUS(PORTCULLIS_REFUSED, portcullis_engine_set_policies(engine, &broken, 1, &applied));
    }

    /* A cluster alone. */
    cluster = cluster_of(endpoints, 1);
    OK(portcullis_engine_set_cluster_values(engine, &cluster, &applied));
    CHECK(applied.endpoints == 1 && applied.policies == 1);
    STATUS(PORTCULLIS_NULL, portcullis_engine_set_cluster_values(engine, NULL, &applied));
    endpoints[0].name = NULL;
    STATUS(PORTCULLIS_NULL, portcullis_engine_set_cluster_values(engine, &cluster, &applied));
    cluster.endpoint_size = 3;
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_engine_set_cluster_values(engine, &cluster, &applied));
    STATUS(PORTCULLIS_NULL, portcullis_engine_apply_policies(engine, 0, NULL, NULL, NULL));
    STATUS(PORTCULLIS_BAD_HANDLE,
           portcullis_engine_apply_policies(
               engine, 0, NULL, (const portcullis_policies *)(const void *)engine, NULL));
    OK(portcullis_policies_free(policies));
    STATUS(PORTCULLIS_BAD_HANDLE, portcullis_policies_free(policies));
    STATUS(PORTCULLIS_BAD_HANDLE, portcullis_engine_stage_policies(engine, policies));
    OK(portcullis_policies_free(NULL));
    OK(portcullis_judge_free(judge));
    OK(portcullis_engine_free(engine));
}

int main(void) {
    policies_in_code();
    puts("values: ok");
    return 0;
}
