/* A firewall started from C, seen from both sides: crates/ffi/test runs it in network namespaces.
 *
 *   firewall run A B         filters between two interfaces; reads `open`, `shut`, `stop` from stdin
 *   firewall listen PORT     takes connections until it is killed
 *   firewall connect A PORT  exits with 0 if a connection comes about within a second
 */
#include "support.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static const char PODS[] =
    "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}},"
    " status: {podIP: 10.98.7.1}}\n"
    "---\n"
    "{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}},"
    " status: {podIP: 10.98.7.2}}\n";

static const char SHUT[] = "apiVersion: networking.k8s.io/v1\n"
                           "kind: NetworkPolicy\n"
                           "metadata: {name: shut, namespace: shop}\n"
                           "spec: {podSelector: {matchLabels: {app: db}}}\n";

static struct sockaddr_in address_of(const char *host, const char *port) {
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)atoi(port));
    CHECK(inet_pton(AF_INET, host, &address.sin_addr) == 1);
    return address;
}

static int listen_on(const char *port) {
    struct sockaddr_in address = address_of("0.0.0.0", port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 8) == 0);
    puts("listening");
    fflush(stdout);
    for (;;)
        close(accept(fd, NULL, NULL));
}

static int connect_to(const char *host, const char *port) {
    struct sockaddr_in address = address_of(host, port);
    struct timeval second;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    second.tv_sec = 1;
    second.tv_usec = 0;
    CHECK(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second) == 0);
    return connect(fd, (struct sockaddr *)&address, sizeof address) == 0 ? 0 : 1;
}

/* Prints what was denied, and that a connection was let through. */
static void tell(struct portcullis_engine *engine) {
    struct portcullis_event events[64];
    static char texts[64 * 256];
    size_t count = 0, n;
    OK(portcullis_engine_events(engine, events, sizeof events[0], 64, texts, sizeof texts, &count));
    for (n = 0; n < count; n++)
        if (events[n].protocol == 6)
            printf("%s %s %s\n", events[n].kind == PORTCULLIS_EVENT_DROPPED ? "dropped" : "passed",
                   events[n].source_name ? events[n].source_name : "-",
                   events[n].policy ? events[n].policy : "-");
}

/* Takes an interface down or up. */
static void set_link(const char *name, int up) {
    struct ifreq request;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    memset(&request, 0, sizeof request);
    strncpy(request.ifr_name, name, sizeof request.ifr_name - 1);
    CHECK(fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0);
    request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
    CHECK(ioctl(fd, SIOCSIFFLAGS, &request) == 0);
    close(fd);
}

/* What happens to an interface is told once, however often it is asked. */
static void watch_ports(struct portcullis_firewall *firewall, const char *b) {
    struct portcullis_port_change changes[4];
    size_t count = 99;
    int waited;
    OK(portcullis_firewall_port_changes(firewall, changes, sizeof changes[0], 4, &count));
    CHECK(count == 0);
    set_link(b, 0);
    OK(portcullis_firewall_port_changes(firewall, changes, sizeof changes[0], 0, &count));
    CHECK(count == 0); /* no room: it waits */
    OK(portcullis_firewall_port_changes(firewall, changes, sizeof changes[0], 4, &count));
    CHECK(count == 1 && strcmp(changes[0].name, b) == 0 && changes[0].port == 1);
    CHECK(changes[0].state == PORTCULLIS_PORT_DOWN);
    OK(portcullis_firewall_port_changes(firewall, changes, sizeof changes[0], 4, &count));
    CHECK(count == 0);
    set_link(b, 1);
    for (waited = 0; count == 0 && waited < 100; waited++) {
        usleep(50000); /* the carrier comes by and by */
        OK(portcullis_firewall_port_changes(firewall, changes, sizeof changes[0], 1, &count));
    }
    CHECK(count == 1 && changes[0].state == PORTCULLIS_PORT_UP);
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_firewall_port_changes(firewall, changes, 3, 4, &count));
}

/* The denied connection was captured, as far as was asked. */
static void read_capture(struct portcullis_engine *engine, struct portcullis_capture *capture,
                         const char *a) {
    struct portcullis_captured packets[16];
    static uint8_t bytes[16 * 60];
    size_t count = 0, waiting = 0, n;
    uint64_t lost = 9, over = 9;
    char text[256];
    OK(portcullis_capture_packets(capture, packets, sizeof packets[0], 16, bytes, sizeof bytes, &count,
                                  &waiting));
    CHECK(count > 0 && waiting < 1000);
    for (n = 0; n < count; n++) {
        CHECK(packets[n].judgement.verdict == PORTCULLIS_DENY && packets[n].time > 0);
        CHECK(packets[n].len <= 60 && packets[n].len <= packets[n].wire_len);
        CHECK(packets[n].data >= bytes && packets[n].data + packets[n].len <= bytes + sizeof bytes);
    }
    CHECK(strcmp(packets[0].interface_name, a) == 0 && packets[0].data[12] == 8);
    OK(portcullis_engine_rule(engine, packets[0].judgement.rule, text, sizeof text, NULL));
    CHECK(strstr(text, "NetworkPolicy/shop/shut") != NULL);
    OK(portcullis_capture_lost(capture, &lost, &over));
    CHECK(lost == 0);
    OK(portcullis_capture_free(capture));
}

/* A wire comes to an idle firewall, goes, and comes again. */
static int add_wires(struct portcullis_firewall *firewall, const char *a, const char *b) {
    struct portcullis_wire wire;
    struct portcullis_port port;
    struct portcullis_prefix prefixes[3];
    char text[4096];
    size_t n;

    port.struct_size = sizeof port;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_firewall_port(firewall, 0, &port));
    OK(portcullis_firewall_wires(firewall, text, sizeof text, NULL));
    CHECK(text[0] == '\0');
    memset(&wire, 0, sizeof wire);
    STATUS(PORTCULLIS_BAD_SIZE, portcullis_firewall_add_wire(firewall, &wire));
    wire.struct_size = sizeof wire;
    STATUS(PORTCULLIS_NULL, portcullis_firewall_add_wire(firewall, &wire));
    STATUS(PORTCULLIS_NULL, portcullis_firewall_add_wire(firewall, NULL));
    wire.a = "nosuch0";
    STATUS(PORTCULLIS_INTERFACE, portcullis_firewall_add_wire(firewall, &wire));
    OK(portcullis_firewall_error(firewall, text, sizeof text, NULL));
    CHECK(strstr(text, "nosuch0") != NULL);
    wire.a = a;
    wire.b = b;
    wire.small_rings = 2;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_firewall_add_wire(firewall, &wire));
    wire.small_rings = 1;
    wire.other_count = 1;
    STATUS(PORTCULLIS_NULL, portcullis_firewall_add_wire(firewall, &wire));
    wire.others = &a;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_firewall_add_wire(firewall, &wire)); /* no name */
    wire.other_count = 0;
    wire.learn_age_ms = 1000;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_firewall_add_wire(firewall, &wire));
    OK(portcullis_firewall_error(firewall, text, sizeof text, NULL));
    CHECK(strstr(text, "only a switch") != NULL);
    wire.others = &a;
    wire.other_count = 1;
    wire.name = "lan";
    wire.learn_addresses = 2000000;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_firewall_add_wire(firewall, &wire));
    wire.learn_addresses = 0;
    wire.floods_burst = 5;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_firewall_add_wire(firewall, &wire));
    wire.floods_per_second = 5000000;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_firewall_add_wire(firewall, &wire));
    wire.floods_per_second = wire.floods_burst = wire.learn_age_ms = 0;
    wire.other_count = 0;
    wire.name = NULL;
    if (portcullis_firewall_add_wire(firewall, &wire) != PORTCULLIS_OK) {
        OK(portcullis_firewall_error(firewall, text, sizeof text, NULL));
        fprintf(stderr, "%s\n", text);
        return 1;
    }
    STATUS(PORTCULLIS_INTERFACE, portcullis_firewall_add_wire(firewall, &wire));
    STATUS(PORTCULLIS_NO_SUCH_WIRE, portcullis_firewall_remove_wire(firewall, "link"));
    snprintf(text, sizeof text, "%s:%s", a, b);
    OK(portcullis_firewall_remove_wire(firewall, text));
    wire.small_rings = 0;
    wire.name = "link";
    OK(portcullis_firewall_add_wire(firewall, &wire));
    OK(portcullis_firewall_wires(firewall, text, sizeof text, NULL));
    CHECK(strcmp(text, "link") == 0);
    OK(portcullis_firewall_port(firewall, 1, &port));
    CHECK(strcmp(port.wire, "link") == 0 && port.memory >= 65536 && port.huge_pages <= 1);

    memset(prefixes, 0, sizeof prefixes);
    for (n = 0; n < 3; n++) {
        prefixes[n].address = v4(203, 0, (uint8_t)n, 0);
        prefixes[n].length = 24;
    }
    OK(portcullis_firewall_replace_early_drop(firewall, prefixes, 2));
    STATUS(PORTCULLIS_INTERFACE, portcullis_firewall_replace_early_drop(firewall, prefixes, 3));
    OK(portcullis_firewall_replace_early_drop(firewall, NULL, 0));
    prefixes[0].length = 33;
    STATUS(PORTCULLIS_PREFIX, portcullis_firewall_replace_early_drop(firewall, prefixes, 1));
    return 0;
}

static int run(const char *a, const char *b) {
    struct portcullis_firewall_config wire;
    struct portcullis_engine *engine = NULL;
    struct portcullis_firewall *firewall = NULL;
    struct portcullis_totals totals;
    struct portcullis_socket sockets[64];
    struct portcullis_program programs[2];
    struct portcullis_capture *capture = NULL;
    struct portcullis_capture_filter filter;
    struct portcullis_address db = v4(10, 98, 7, 2);
    uint64_t rounds = 0;
    uint32_t cpu = 100000;
    struct portcullis_port port;
    char line[16], text[4096];
    size_t count = 0;
    int fd = -1;

    OK(portcullis_engine_new(NULL, &engine));
    OK(apply(engine, PODS, SHUT));
    OK(portcullis_engine_event_fd(engine, &fd));
    memset(&wire, 0, sizeof wire);
    wire.struct_size = sizeof wire;
    wire.a = a;
    wire.b = b;
    wire.rx_ring = 100; /* no power of two */
    STATUS(PORTCULLIS_INTERFACE, portcullis_firewall_start(engine, &wire, &firewall));
    OK(portcullis_engine_error(engine, text, sizeof text, NULL));
    CHECK(strstr(text, "rx 100") != NULL);
    wire.rx_ring = 256;
    wire.frames_per_queue = 1280;
    wire.tick_ms = 101;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_firewall_start(engine, &wire, &firewall));
    wire.tick_ms = 50;
    wire.stale_after_ms = 2000;
    wire.busy_poll_budget = 1 << 20;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_firewall_start(engine, &wire, &firewall));
    wire.busy_poll_budget = 0;
    memset(&filter, 0, sizeof filter);
    filter.struct_size = sizeof filter;
    filter.verdicts = 1 << PORTCULLIS_DENY;
    filter.addresses = &db;
    filter.address_count = 1;
    filter.snap = 60;
    OK(portcullis_capture_new(engine, &filter, &capture));
    OK(portcullis_capture_allow(capture, 1000));
    wire.a = wire.b = NULL;
    wire.early_drop_capacity = 2;
    wire.cpus = &cpu;
    wire.cpu_count = 1;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_firewall_start(engine, &wire, &firewall));
    OK(portcullis_engine_error(engine, text, sizeof text, NULL));
    CHECK(strstr(text, "CPU 100000") != NULL);
    wire.cpu_count = 0;
    wire.mirror = "nosuch1";
    STATUS(PORTCULLIS_INTERFACE, portcullis_firewall_start(engine, &wire, &firewall));
    OK(portcullis_engine_error(engine, text, sizeof text, NULL));
    CHECK(strstr(text, "nosuch1") != NULL);
    wire.mirror = NULL;
    wire.nice = 21;
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_firewall_start(engine, &wire, &firewall));
    wire.nice = PORTCULLIS_NICE_ORDINARY;
    wire.numa = UINT32_MAX;
    wire.busy_wait_ms = 3000;
    OK(portcullis_firewall_start(engine, &wire, &firewall));
    if (add_wires(firewall, a, b) != 0)
        return 1;
    port.struct_size = sizeof port;
    OK(portcullis_firewall_port(firewall, 1, &port));
    CHECK(strcmp(port.name, b) == 0 && port.queues >= 1 && port.mtu >= 1280 && port.mode[0] != 0);
    STATUS(PORTCULLIS_BAD_VALUE, portcullis_firewall_port(firewall, 2, &port));
    OK(portcullis_firewall_sockets(firewall, sockets, sizeof sockets[0], 64, &count));
    CHECK(count >= 2 && sockets[0].port == 0 && sockets[count - 1].port == 1);
    CHECK(sockets[0].rx_invalid_descriptors == 0 && sockets[0].tx_invalid_descriptors == 0);
    OK(portcullis_firewall_lesser_mode(firewall, text, sizeof text, NULL));
    OK(portcullis_firewall_error(firewall, text, sizeof text, NULL));
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct pollfd polls[2];
        polls[0].fd = 0;
        polls[1].fd = fd;
        polls[0].events = polls[1].events = POLLIN;
        polls[0].revents = polls[1].revents = 0;
        CHECK(poll(polls, 2, -1) > 0);
        if (polls[1].revents)
            tell(engine);
        if (polls[0].revents) {
            CHECK(fgets(line, sizeof line, stdin) != NULL);
            if (strcmp(line, "stop\n") == 0)
                break;
            OK(apply(engine, PODS, strcmp(line, "open\n") == 0 ? "" : SHUT));
            puts("applied");
        }
        fflush(stdout);
    }
    totals.struct_size = sizeof totals;
    OK(portcullis_engine_totals(engine, &totals));
    CHECK(totals.forwarded > 0 && totals.dropped > 0 && totals.opened > 0);
    read_capture(engine, capture, a);
    OK(portcullis_firewall_programs(firewall, programs, sizeof programs[0], 2, &count));
    CHECK(count == 2 && programs[0].port == 0 && programs[1].port == 1);
    CHECK(programs[0].to_socket > 0 && programs[1].to_socket > 0);
    OK(portcullis_engine_rounds(engine, NULL, NULL, 0, &count, &rounds));
    CHECK(rounds > 0);
    watch_ports(firewall, b);
    OK(portcullis_firewall_halt(firewall));
    OK(portcullis_firewall_halt(firewall));
    OK(portcullis_firewall_stop(firewall));
    STATUS(PORTCULLIS_BAD_HANDLE, portcullis_firewall_stop(firewall));
    STATUS(PORTCULLIS_BAD_HANDLE, portcullis_firewall_halt(firewall));
    OK(portcullis_engine_free(engine));
    puts("firewall: ok");
    return 0;
}

int main(int argc, char **argv) {
    setvbuf(stdin, NULL, _IONBF, 0);
    if (argc == 4 && strcmp(argv[1], "run") == 0)
        return run(argv[2], argv[3]);
    if (argc == 3 && strcmp(argv[1], "listen") == 0)
        return listen_on(argv[2]);
    if (argc == 4 && strcmp(argv[1], "connect") == 0)
        return connect_to(argv[2], argv[3]);
    fprintf(stderr, "usage: firewall run A B | listen PORT | connect ADDRESS PORT\n");
    return 2;
}
