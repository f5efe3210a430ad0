/* Measures a member of a consumer group alone, on librdkafka. Flags and output are those of
 * ../go/consume; records are taken in batches from one queue, which is librdkafka's fastest way. */

#include <librdkafka/rdkafka.h>

#include "measure.h"

#define BATCH 10000
#define PARTITIONS 1024

static void set(rd_kafka_conf_t *config, const char *name, const char *value) {
    char why[512];
    if (rd_kafka_conf_set(config, name, value, why, sizeof why) != RD_KAFKA_CONF_OK)
        die(name, why);
}

int main(int count, char **words) {
    char why[512];
    const char *topic = option(count, words, "--topic", "bench");
    long long wanted = atoll(option(count, words, "--records", "1000000"));
    int64_t limit_ns = (int64_t)(atof(option(count, words, "--limit", "60")) * 1e9);
    int64_t began_ns = clock_ns(CLOCK_MONOTONIC), began_cpu_ns = cpu_ns(), first_ns = 0;

    rd_kafka_conf_t *config = rd_kafka_conf_new();
    set(config, "bootstrap.servers", option(count, words, "--brokers", "127.0.0.1:9092"));
    set(config, "group.id", option(count, words, "--group", "bench"));
    set(config, "auto.offset.reset", "earliest");
    rd_kafka_t *client = rd_kafka_new(RD_KAFKA_CONSUMER, config, why, sizeof why);
    if (!client)
        die("client", why);
    rd_kafka_poll_set_consumer(client);
    rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(topics, topic, RD_KAFKA_PARTITION_UA);
    rd_kafka_resp_err_t error = rd_kafka_subscribe(client, topics);
    if (error)
        die("subscribe", rd_kafka_err2str(error));
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(client);

    static rd_kafka_message_t *batch[BATCH];
    static int64_t next[PARTITIONS];
    long long records = 0, value_bytes = 0, errors = 0;
    while (records < wanted) {
        if (clock_ns(CLOCK_MONOTONIC) - began_ns > limit_ns)
            die("consume", "not all records came in time");
        ssize_t taken = rd_kafka_consume_batch_queue(queue, 100, batch, BATCH);
        for (ssize_t at = 0; at < taken; at++) {
            rd_kafka_message_t *message = batch[at];
            if (message->err) {
                errors++;
            } else {
                if (!first_ns)
                    first_ns = clock_ns(CLOCK_MONOTONIC);
                int64_t *expected = &next[message->partition % PARTITIONS];
                errors += message->offset != *expected;
                *expected = message->offset + 1;
                value_bytes += (long long)message->len;
                records++;
            }
            rd_kafka_message_destroy(message);
        }
    }
    rd_kafka_commit(client, NULL, 0);
    int64_t now_ns = clock_ns(CLOCK_MONOTONIC);
    printf("{\"client\":\"librdkafka\",\"seconds\":%.6f,\"records\":%lld,\"records_per_s\":%.1f,"
           "\"cpu_us_per_record\":%.6f,\"value_bytes\":%lld,\"errors\":%lld}\n",
           (double)(now_ns - began_ns) / 1e9, records, (double)records * 1e9 / (double)(now_ns - first_ns),
           (double)(cpu_ns() - began_cpu_ns) / 1e3 / (double)records, value_bytes, errors);
    rd_kafka_queue_destroy(queue);
    rd_kafka_topic_partition_list_destroy(topics);
    rd_kafka_consumer_close(client);
    rd_kafka_destroy(client);
    return 0;
}
