// Prints the events of orders and payments, one per line, until Ctrl-C. Usage: node feed.js BROKERS [GROUP]
const path = require('node:path');
const { Kafka, logLevel } = require('kafkajs');
const protobuf = require('protobufjs');

const proto = new protobuf.Root();
proto.resolvePath = (_, file) => path.join(__dirname, '../../proto', file);
proto.loadSync(['orders/events/v1/order_event.proto', 'payments/events/v1/payment_event.proto'], { keepCase: true });
const types = {
  'order-events': proto.lookupType('orders.events.v1.OrderEvent'),
  'payment-events': proto.lookupType('payments.events.v1.PaymentEvent'),
};
const [brokers, group = 'example-node'] = process.argv.slice(2);
const seen = new Set(); // unbounded and lost at exit: a reader with side effects persists it together with them

function show(topic, { headers, value }) {
  const { ce_id: id, ce_sequence: sequence } = headers;
  if (!id?.length || !sequence?.length || value === null) throw new Error('no ce_id, no ce_sequence or no value');
  const event = types[topic].decode(value); // plain protobuf, without a schema registry's framing
  if (seen.has(id.toString('hex'))) return; // Kafka holds each event once, but a restarted reader rereads some
  seen.add(id.toString('hex'));
  const name = event.event; // the name of the oneof's field; undefined: the event is newer than this reader
  // A number cannot hold 64 bits: these fields are objects that print as decimal text.
  console.log(`${topic} ${sequence} ${event.order_id} ${event.version} ${name ?? 'newer'} ${event[name]?.amount ?? '-'}`);
}

const consumer = new Kafka({ brokers: brokers.split(','), logLevel: logLevel.WARN }).consumer({
  groupId: group,
  readUncommitted: false, // leave out aborted records
  allowAutoTopicCreation: false, // by default a consumer creates a missing topic
});
process.once('SIGINT', () => consumer.disconnect()); // commits the offsets of what was printed

async function main() {
  await consumer.connect();
  await consumer.subscribe({ topics: Object.keys(types), fromBeginning: true });
  await consumer.run({
    // The offset is committed after this returns. If this throws, the record is delivered again.
    eachMessage: async ({ topic, partition, message }) => {
      try {
        show(topic, message);
      } catch (error) {
        console.error(`skipped ${topic}/${partition}@${message.offset}: ${error.message}`);
      }
    },
  });
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
