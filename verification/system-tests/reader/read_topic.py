"""Reads a topic from its beginning to its current end, and prints each record as a line of JSON.

It shares no code with the services. It uses Confluent's client and protobuf classes generated from the published
contracts. Usage: read_topic.py BROKERS TOPIC [MODULE MESSAGE], where MODULE contains the class MESSAGE. Without them,
the values are printed as text.
"""

import importlib
import json
import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition


def main(brokers, topic, module=None, message=None):
    event_class = module and getattr(importlib.import_module(module), message)
    consumer = Consumer({
        "bootstrap.servers": brokers,
        "group.id": "system-tests",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    })
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    unread = set(partitions)
    while unread:
        record = consumer.poll(30)
        if record is None:
            sys.exit(f"{topic}: no record for 30 s, and partitions {sorted(unread)} are not read to the end")
        if record.error():
            if record.error().code() != KafkaError._PARTITION_EOF:
                sys.exit(f"{topic}: {record.error()}")
            unread.discard(record.partition())
            continue
        if event_class is None:
            print(record.value().decode())
            continue
        headers = {name: value.decode() for name, value in record.headers() or []}
        if "ce_id" not in headers:
            continue  # not an event: the tests write such records, and the services dead-letter them
        event = event_class()
        event.ParseFromString(record.value())
        print(json.dumps({
            "partition": record.partition(),
            "offset": record.offset(),
            "key": record.key().decode(),
            "id": headers["ce_id"],
            "sequence": int(headers["ce_sequence"]),
            "event_id": event.event_id,
            "order_id": event.order_id,
            "version": event.version,
            "event": event.WhichOneof("event"),
        }))
    consumer.close()


main(*sys.argv[1:])
