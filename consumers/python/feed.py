"""Prints what happens to orders and payments, one line per event. Usage: feed.py BROKERS [--until-end]"""

import sys
from contextlib import suppress

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from google.protobuf.message import DecodeError
from orders.events.v1.order_event_pb2 import OrderEvent
from payments.events.v1.payment_event_pb2 import PaymentEvent

CLASSES = {"order-events": OrderEvent, "payment-events": PaymentEvent}
brokers, until_end = sys.argv[1], "--until-end" in sys.argv[2:]
seen = set()  # grows for ever, ends with the process: who has effects keeps what was seen together with them


def show(record):
    headers = dict(record.headers() or [])
    if not headers.get("ce_id") or not headers.get("ce_sequence") or record.value() is None:
        raise ValueError("no ce_id, no ce_sequence or no value")
    event = CLASSES[record.topic()].FromString(record.value())  # plain protobuf, without a schema registry's framing
    if headers["ce_id"] in seen:  # Kafka holds each event once; a reader that crashed or lost a partition reads some again
        return
    seen.add(headers["ce_id"])
    name = event.WhichOneof("event")  # None: the event is newer than this reader
    amount = getattr(getattr(event, name), "amount", "-") if name else "-"
    print(record.topic(), headers["ce_sequence"].decode(), event.order_id, event.version, name or "newer", amount, flush=True)


consumer = Consumer({
    "bootstrap.servers": brokers,
    "group.id": "example-python",
    "isolation.level": "read_committed",  # what was aborted never happened; librdkafka's default, other clients' is not
    "auto.offset.reset": "earliest",
    "enable.auto.commit": not until_end,
    "enable.auto.offset.store": False,  # the default lets an offset be committed before its record was looked at
    "enable.partition.eof": until_end,
})
unread = set()
if until_end:
    topics = consumer.list_topics(timeout=10).topics
    unread = {(topic, partition) for topic in CLASSES for partition in topics[topic].partitions}
    consumer.assign([TopicPartition(*partition, OFFSET_BEGINNING) for partition in unread])
else:
    consumer.subscribe(list(CLASSES))
with consumer, suppress(KeyboardInterrupt):
    while unread or not until_end:
        if (record := consumer.poll(1)) is None:  # never `not record`: a record without a value is falsy
            continue
        if record.error() is None:
            try:
                show(record)
            except (DecodeError, ValueError) as error:
                print(f"skipped {record.topic()}/{record.partition()}@{record.offset()}: {error}", file=sys.stderr)
            if not until_end:
                consumer.store_offsets(record)  # only now is it up for commit: every 5 s, and on close
        elif record.error().code() == KafkaError._PARTITION_EOF:
            # An event of its own, for the last offset tells nothing: where a transaction ends, a marker takes one up.
            unread.discard((record.topic(), record.partition()))
        else:
            print(record.error(), file=sys.stderr)
