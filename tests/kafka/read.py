"""Reads a topic with a client that is not ours, from its beginning to the end it had at the start.

usage: read.py BOOTSTRAP TOPIC [--client confluent|kafka-python] [--sasl MECHANISM] [--committed]

Prints a JSON line a record: partition, offset, timestamp_ms, key, value, headers; key, value and header
values in base64, or null. The last line is the verdict. --sasl logs in as "trine" with "secret";
--committed leaves out what belongs to aborted transactions.
"""

import argparse
import base64
import json
import sys
import time

LIMIT_S = 60
POLL_S = 0.5


def encoded(data):
    return None if data is None else base64.b64encode(data).decode()


def show(partition, offset, timestamp_ms, key, value, headers):
    headers = [[name, encoded(data)] for name, data in headers or ()]
    record = {"partition": partition, "offset": offset, "timestamp_ms": timestamp_ms}
    print(json.dumps({**record, "key": encoded(key), "value": encoded(value), "headers": headers}))


def confluent(options, end_time):
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    config = {"bootstrap.servers": options.bootstrap, "group.id": "reader", "enable.auto.commit": False}
    config |= {"enable.partition.eof": True, "auto.offset.reset": "error", "check.crcs": True}
    config["isolation.level"] = "read_committed" if options.committed else "read_uncommitted"
    if options.sasl:
        config |= {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": options.sasl}
        config |= {"sasl.username": "trine", "sasl.password": "secret"}
    consumer = Consumer(config)
    known = consumer.list_topics(options.topic, timeout=LIMIT_S / 2).topics[options.topic]
    if known.error:
        raise RuntimeError(str(known.error))
    left, starts = {}, []
    for partition in known.partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(options.topic, partition), timeout=LIMIT_S / 2)
        if low < high:
            left[partition] = high
            starts.append(TopicPartition(options.topic, partition, low))
    if starts:
        consumer.assign(starts)
    count = 0
    while left:
        if time.monotonic() > end_time:
            raise TimeoutError(f"partitions not read to their end: {left}")
        for message in consumer.consume(10_000, POLL_S):
            partition, offset = message.partition(), message.offset()
            if message.error():
                if message.error().code() != KafkaError._PARTITION_EOF:
                    raise RuntimeError(str(message.error()))
                # The end of a partition may be a marker, which is no record.
                if offset >= left.get(partition, 0):
                    left.pop(partition, None)
            elif offset < left.get(partition, 0):
                _, timestamp_ms = message.timestamp()
                show(partition, offset, timestamp_ms, message.key(), message.value(), message.headers())
                count += 1
                if offset + 1 == left[partition]:
                    del left[partition]
    consumer.close()
    return count


def kafka_python(options, end_time):
    from kafka import KafkaConsumer, TopicPartition

    config = {"bootstrap_servers": options.bootstrap.split(","), "enable_auto_commit": False, "check_crcs": True}
    config["isolation_level"] = "read_committed" if options.committed else "read_uncommitted"
    config["consumer_timeout_ms"] = POLL_S * 1000
    if options.sasl:
        config |= {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": options.sasl}
        config |= {"sasl_plain_username": "trine", "sasl_plain_password": "secret"}
    consumer = KafkaConsumer(**config)
    partitions = [TopicPartition(options.topic, number) for number in consumer.partitions_for_topic(options.topic)]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    ends = consumer.end_offsets(partitions)
    count = 0
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        if time.monotonic() > end_time:
            raise TimeoutError("not read to the end")
        for partition, messages in consumer.poll(timeout_ms=POLL_S * 1000, max_records=10_000).items():
            for message in messages:
                if message.offset < ends[partition]:
                    at = (message.partition, message.offset, message.timestamp)
                    show(*at, message.key, message.value, message.headers)
                    count += 1
    consumer.close()
    return count


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("bootstrap")
    parser.add_argument("topic")
    parser.add_argument("--client", choices=["confluent", "kafka-python"], default="confluent")
    parser.add_argument("--sasl")
    parser.add_argument("--committed", action="store_true")
    options = parser.parse_args()
    read = confluent if options.client == "confluent" else kafka_python
    try:
        verdict = {"ok": True, "records": read(options, time.monotonic() + LIMIT_S)}
    except Exception as error:  # whatever it is, the verdict says it
        verdict = {"ok": False, "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(verdict))
    sys.exit(not verdict["ok"])


if __name__ == "__main__":
    main()
