/* Measures the producer of librdkafka alone, with acks from all in-sync replicas and idempotence.
 * Flags, clock and output are those of ../go/produce.
 *
 * Values are not copied: all records share one that outlives them. A record's opaque pointer is
 * when it was due, in nanoseconds since 1970, where latency is asked for. */

#include <librdkafka/rdkafka.h>
#include <poll.h>
#include <unistd.h>

#include "measure.h"

static struct {
    int64_t acknowledged, errors, sent;
    const char *first_error;
    struct histogram latencies;
    struct reading before, after;
    int64_t warm_up_ns, measured_ns;
    int partitions, outstanding;
    void *value;
    size_t value_bytes;
    rd_kafka_t *client;
    rd_kafka_topic_t *topic;
} bench;

static void settled(rd_kafka_t *client, const rd_kafka_message_t *message, void *opaque) {
    (void)client, (void)opaque;
    if (message->err) {
        bench.errors++;
        if (!bench.first_error)
            bench.first_error = rd_kafka_err2str(message->err);
        return;
    }
    bench.acknowledged++;
    int64_t due_ns = (int64_t)message->_private;
    if (due_ns) {
        int64_t latency_ns = clock_ns(CLOCK_REALTIME) - due_ns;
        histogram_add(&bench.latencies, latency_ns < 1 ? 1 : (uint64_t)latency_ns);
    }
}

static int64_t unsettled(void) { return bench.sent - bench.acknowledged - bench.errors; }

static void send_one(int64_t due_ns) {
    while (unsettled() >= bench.outstanding)
        rd_kafka_poll(bench.client, 100);
    int partition = (int)(bench.sent % bench.partitions);
    while (rd_kafka_produce(bench.topic, partition, 0, bench.value, bench.value_bytes, NULL, 0,
                            (void *)due_ns)) {
        if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL)
            die("produce", rd_kafka_err2str(rd_kafka_last_error()));
        rd_kafka_poll(bench.client, 10);
    }
    bench.sent++;
}

static void closed_loop(void) {
    int64_t begin_ns = clock_ns(CLOCK_MONOTONIC);
    for (;; send_one(0)) {
        if (bench.sent % 256)
            continue;
        rd_kafka_poll(bench.client, 0);
        int64_t since_ns = clock_ns(CLOCK_MONOTONIC) - begin_ns;
        if (since_ns >= bench.warm_up_ns)
            read_meters(&bench.before, bench.acknowledged);
        if (since_ns >= bench.warm_up_ns + bench.measured_ns)
            break;
    }
}

/* librdkafka says by a byte in a pipe that there are acknowledgements, so that one poll waits for
 * these and for the clock. */
static void open_loop(void) {
    int ends[2];
    if (pipe(ends))
        die("pipe", "none to be had");
    rd_kafka_queue_t *queue = rd_kafka_queue_get_main(bench.client);
    rd_kafka_queue_io_event_enable(queue, ends[1], "", 1);
    struct pollfd polled[2] = {{.fd = 0, .events = POLLIN}, {.fd = ends[0], .events = POLLIN}};
    static char due[1 << 16];
    size_t have = 0;
    int64_t begin_ns = 0;
    for (;;) {
        if (poll(polled, 2, 1000) < 0)
            die("poll", "it failed");
        if (polled[1].revents) {
            char ignored[512];
            if (read(ends[0], ignored, sizeof ignored) < 0)
                die("read", "the pipe failed");
            rd_kafka_poll(bench.client, 0);
        }
        if (!polled[0].revents)
            continue;
        ssize_t count = read(0, due + have, sizeof due - have);
        if (count <= 0)
            break;
        have += (size_t)count;
        size_t at = 0;
        for (; at + 8 <= have; at += 8) {
            int64_t due_ns;
            memcpy(&due_ns, due + at, 8);
            if (!begin_ns)
                begin_ns = due_ns;
            int64_t since_ns = due_ns - begin_ns;
            int is_measured = since_ns >= bench.warm_up_ns;
            if (since_ns >= bench.warm_up_ns + bench.measured_ns) {
                read_meters(&bench.after, bench.acknowledged);
                is_measured = 0;
            } else if (is_measured) {
                read_meters(&bench.before, bench.acknowledged);
            }
            send_one(is_measured ? due_ns : 0);
        }
        memmove(due, due + at, have - at);
        have -= at;
    }
    rd_kafka_queue_destroy(queue);
}

static void set(rd_kafka_conf_t *config, const char *name, const char *value) {
    char why[512];
    if (rd_kafka_conf_set(config, name, value, why, sizeof why) != RD_KAFKA_CONF_OK)
        die(name, why);
}

int main(int count, char **words) {
    char why[512];
    const char *outstanding = option(count, words, "--outstanding", "10000");
    bench.outstanding = atoi(outstanding);
    bench.partitions = atoi(option(count, words, "--partitions", "16"));
    bench.value_bytes = (size_t)atoi(option(count, words, "--value-bytes", "128"));
    bench.warm_up_ns = (int64_t)(atof(option(count, words, "--warm-up", "1")) * 1e9);
    bench.measured_ns = (int64_t)(atof(option(count, words, "--seconds", "3")) * 1e9);
    bench.value = malloc(bench.value_bytes);
    memset(bench.value, 'x', bench.value_bytes);

    rd_kafka_conf_t *config = rd_kafka_conf_new();
    set(config, "bootstrap.servers", option(count, words, "--brokers", "127.0.0.1:9092"));
    set(config, "enable.idempotence", "true");
    set(config, "acks", "all");
    set(config, "linger.ms", option(count, words, "--linger-ms", "0"));
    set(config, "batch.size", option(count, words, "--batch-bytes", "1000000"));
    set(config, "batch.num.messages", "1000000");
    set(config, "queue.buffering.max.messages", outstanding);
    rd_kafka_conf_set_dr_msg_cb(config, settled);
    bench.client = rd_kafka_new(RD_KAFKA_PRODUCER, config, why, sizeof why);
    if (!bench.client)
        die("client", why);
    bench.topic = rd_kafka_topic_new(bench.client, option(count, words, "--topic", "bench"), NULL);

    if (has_flag(count, words, "--clock"))
        open_loop();
    else
        closed_loop();
    read_meters(&bench.after, bench.acknowledged);
    rd_kafka_flush(bench.client, 10000);
    if (unsettled() && !bench.first_error)
        bench.first_error = "not everything was settled within 10 s";
    bench.errors += unsettled();
    report(&bench.before, &bench.after, &bench.latencies, bench.acknowledged, bench.errors,
           bench.first_error);
    rd_kafka_topic_destroy(bench.topic);
    rd_kafka_destroy(bench.client);
    return 0;
}
