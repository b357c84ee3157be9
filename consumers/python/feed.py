"""Prints the events of orders and payments, one per line, until Ctrl-C. Usage: feed.py BROKERS [GROUP]"""

import sys
from contextlib import suppress

from confluent_kafka import Consumer
from google.protobuf.message import DecodeError
from orders.events.v1.order_event_pb2 import OrderEvent
from payments.events.v1.payment_event_pb2 import PaymentEvent

CLASSES = {"order-events": OrderEvent, "payment-events": PaymentEvent}
seen = set()  # unbounded and lost at exit: a reader with side effects persists it together with them


def show(record):
    headers = dict(record.headers() or [])
    if not headers.get("ce_id") or not headers.get("ce_sequence") or record.value() is None:
        raise ValueError("no ce_id, no ce_sequence or no value")
    event = CLASSES[record.topic()].FromString(record.value())  # plain protobuf, without a schema registry's framing
    if headers["ce_id"] in seen:  # Kafka holds each once, but a reader that crashed or lost a partition rereads some
        return
    seen.add(headers["ce_id"])
    name = event.WhichOneof("event")  # None: the event is newer than this reader
    amount = getattr(getattr(event, name), "amount", "-") if name else "-"
    print(record.topic(), headers["ce_sequence"].decode(), event.order_id, event.version, name or "newer", amount, flush=True)


consumer = Consumer({
    "bootstrap.servers": sys.argv[1],
    "group.id": sys.argv[2] if len(sys.argv) > 2 else "example-python",
    "isolation.level": "read_committed",  # leaves out aborted records; librdkafka's default, but not every client's
    "auto.offset.reset": "earliest",
    "enable.auto.offset.store": False,  # by default, an offset may be committed before its record is processed
})
consumer.subscribe(list(CLASSES))
with consumer, suppress(KeyboardInterrupt):
    while True:
        if (record := consumer.poll(1)) is None:  # not `not record`: a record without a value is falsy
            continue
        if record.error():
            print(record.error(), file=sys.stderr)
            continue
        try:
            show(record)
        except (DecodeError, ValueError) as error:
            print(f"skipped {record.topic()}/{record.partition()}@{record.offset()}: {error}", file=sys.stderr)
        consumer.store_offsets(record)  # marks it for the commit, which comes every 5 s and on close
