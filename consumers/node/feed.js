// Prints what happens to orders and payments, one line per event. Usage: node feed.js BROKERS [--until-end]
const path = require('node:path');
const { KafkaConsumer } = require('@confluentinc/kafka-javascript');
const protobuf = require('protobufjs');

const proto = new protobuf.Root();
proto.resolvePath = (_, file) => path.join(__dirname, '../../proto', file);
proto.loadSync(['orders/events/v1/order_event.proto', 'payments/events/v1/payment_event.proto'], { keepCase: true });
const types = {
  'order-events': proto.lookupType('orders.events.v1.OrderEvent'),
  'payment-events': proto.lookupType('payments.events.v1.PaymentEvent'),
};
const [brokers, untilEnd] = [process.argv[2], process.argv[3] === '--until-end'];
const seen = new Set(); // grows for ever, ends with the process: who has effects keeps what was seen together with them

function show(record) {
  const { ce_id: id, ce_sequence: sequence } = Object.assign({}, ...(record.headers ?? []));
  if (!id?.length || !sequence?.length || record.value === null) throw new Error('no ce_id, no ce_sequence or no value');
  const event = types[record.topic].decode(record.value); // plain protobuf, without a schema registry's framing
  if (seen.has(id.toString('hex'))) return; // Kafka has each event once; a reader that crashed reads some again
  seen.add(id.toString('hex'));
  const name = event.event; // the name of the field that is set; undefined: the event is newer than this reader
  // 64 bits do not fit into a number: they are objects, made into text.
  console.log(`${record.topic} ${sequence} ${event.order_id} ${event.version} ${name ?? 'newer'} ${event[name]?.amount ?? '-'}`);
}

const consumer = new KafkaConsumer({
  'bootstrap.servers': brokers,
  'group.id': 'example-node',
  'isolation.level': 'read_committed', // what was aborted never happened
  'enable.auto.commit': !untilEnd,
  'enable.auto.offset.store': false, // the default lets an offset be committed before its record was looked at
  'enable.partition.eof': untilEnd,
}, { 'auto.offset.reset': 'earliest' });
let unread = new Set();
consumer.on('data', (record) => {
  try {
    show(record);
  } catch (error) {
    console.error(`skipped ${record.topic}/${record.partition}@${record.offset}: ${error.message}`);
  }
  // Printed: now it is up for commit, every 5 s and at the end. It throws if the partition has gone to another member.
  if (!untilEnd) try { consumer.offsetsStore([{ ...record, offset: record.offset + 1 }]); } catch { /* read again there */ }
});
// An event of its own, for the last offset tells nothing: where a transaction ends, a marker takes one up.
consumer.on('partition.eof', ({ topic, partition }) => {
  if (unread.delete(`${topic}/${partition}`) && unread.size === 0) consumer.disconnect();
});
consumer.on('event.error', (error) => console.error(error.message));
process.once('SIGINT', () => consumer.disconnect());
consumer.connect({ timeout: 10000 }, (error, metadata) => {
  if (error) throw error;
  if (untilEnd) {
    const partitions = Object.keys(types).flatMap((topic) => metadata.topics.find(({ name }) => name === topic).partitions
      .map(({ id }) => ({ topic, partition: id, offset: 'beginning' })));
    unread = new Set(partitions.map(({ topic, partition }) => `${topic}/${partition}`));
    consumer.assign(partitions);
  } else consumer.subscribe(Object.keys(types));
  consumer.consume();
});
