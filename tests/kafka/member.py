"""A member of a consumer group that is not ours: prints what it gets and commits it.

usage: member.py BOOTSTRAP GROUP TOPIC [--assignor NAME] [--instance ID] [--protocol classic|consumer]
                 [--debug]

Prints a JSON line for each event: {"assigned": [partition...]} and {"revoked": [...]} with all that it holds
then, {"record": [partition, offset]}. It leaves the group when its input ends, and then prints
{"left": true}; killed, it just stops.
"""

import argparse
import json
import sys
import threading

POLL_S = 0.1


def say(**event):
    print(json.dumps(event), flush=True)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("bootstrap")
    parser.add_argument("group")
    parser.add_argument("topic")
    parser.add_argument("--assignor", default="range", help="range, roundrobin or cooperative-sticky")
    parser.add_argument("--instance", help="group.instance.id of a static member")
    parser.add_argument("--protocol", choices=["classic", "consumer"], default="classic")
    parser.add_argument("--debug", action="store_true", help="says on stderr what becomes of the group")
    options = parser.parse_args()

    from confluent_kafka import Consumer, KafkaError, KafkaException

    config = {"bootstrap.servers": options.bootstrap, "group.id": options.group, "log_level": 3}
    config |= {"auto.offset.reset": "earliest", "enable.auto.commit": False, "group.protocol": options.protocol}
    if options.protocol == "classic":
        config |= {"partition.assignment.strategy": options.assignor}
        config |= {"session.timeout.ms": 6000, "heartbeat.interval.ms": 300}
    if options.debug:
        config |= {"debug": "cgrp", "log_level": 7}
    if options.instance:
        config["group.instance.id"] = options.instance
    consumer = Consumer(config)
    incremental = options.protocol == "consumer" or options.assignor.startswith("cooperative")
    held = set()

    def assigned(of, partitions):
        held.update(each.partition for each in partitions)
        of.incremental_assign(partitions) if incremental else of.assign(partitions)
        say(assigned=sorted(held))

    def revoked(of, partitions):
        held.difference_update(each.partition for each in partitions)
        of.incremental_unassign(partitions) if incremental else of.unassign()
        say(revoked=sorted(held))

    def lost(of, partitions):
        held.difference_update(each.partition for each in partitions)
        say(revoked=sorted(held))

    consumer.subscribe([options.topic], on_assign=assigned, on_revoke=revoked, on_lost=lost)
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    while not over.is_set():
        message = consumer.poll(POLL_S)
        if message is not None and not message.error():
            say(record=[message.partition(), message.offset()])
            consumer.commit(message, asynchronous=True)
    if held:
        try:
            consumer.commit(asynchronous=False)
        except KafkaException as error:
            # All is committed already, or nothing was read.
            if error.args[0].code() != KafkaError._NO_OFFSET:
                raise
    consumer.close()
    say(left=True)


if __name__ == "__main__":
    main()
