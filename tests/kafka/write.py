"""Writes to a topic with a client that is not ours, and says what the broker acknowledged.

usage: write.py BOOTSTRAP TOPIC --count N [--keys N] [--run NAME] [--sender NAME] [--rate N] [--sasl MECHANISM]

Messages carry run, sender, sequence and key in their value and the headers of a gateway, as the checker wants
them. Prints a JSON line a message in the order of acknowledgements: sequence, key, sent_ns and
acknowledged_ns since the start, partition and offset, or an error. The last line is the verdict.
"""

import argparse
import json
import sys
import time

LIMIT_S = 60


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("bootstrap")
    parser.add_argument("topic")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--keys", type=int, default=10)
    parser.add_argument("--run", default="run")
    parser.add_argument("--sender", default="writer")
    parser.add_argument("--rate", type=int, default=0, help="messages a second; 0: as fast as it goes")
    parser.add_argument("--sasl")
    options = parser.parse_args()

    from confluent_kafka import Producer

    config = {"bootstrap.servers": options.bootstrap, "enable.idempotence": True, "linger.ms": 2}
    config["delivery.timeout.ms"] = LIMIT_S * 1000 // 2
    if options.sasl:
        config |= {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": options.sasl}
        config |= {"sasl.username": "trine", "sasl.password": "secret"}
    producer = Producer(config)
    start = time.monotonic_ns()
    acknowledged = 0

    def send(sequence):
        key = f"key-{sequence % options.keys}"
        sent = {"sequence": sequence, "key": key, "sent_ns": time.monotonic_ns() - start}

        def answered(error, message):
            nonlocal acknowledged
            sent["acknowledged_ns"] = time.monotonic_ns() - start
            if error:
                sent["error"] = str(error)
            else:
                sent.update(partition=message.partition(), offset=message.offset())
                acknowledged += 1
            print(json.dumps(sent), flush=options.rate > 0)

        value = json.dumps({"run": options.run, "sender": options.sender, "sequence": sequence, "key": key})
        marks = {"trine-gateway": options.sender, "trine-epoch": options.run, "trine-sequence": str(sequence)}
        producer.produce(options.topic, value, key, headers=marks, on_delivery=answered)

    for sequence in range(options.count):
        send(sequence)
        if options.rate:
            producer.poll(max(0, sequence / options.rate - (time.monotonic_ns() - start) / 1e9))
        else:
            producer.poll(0)
    left = producer.flush(LIMIT_S)
    verdict = {"ok": left == 0, "acknowledged": acknowledged, "unanswered": left}
    print(json.dumps(verdict))
    sys.exit(not verdict["ok"])


if __name__ == "__main__":
    main()
