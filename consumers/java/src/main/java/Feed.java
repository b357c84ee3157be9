import com.example.orders.events.v1.OrderEvent;
import com.example.payments.events.v1.PaymentEvent;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

import static java.nio.charset.StandardCharsets.ISO_8859_1;

/** Prints what happens to orders and payments, one line per event. Usage: Feed BROKERS [--until-end] */
public class Feed {
    static final Map<String, com.google.protobuf.Parser<? extends Message>> PARSERS =
        Map.of("order-events", OrderEvent.parser(), "payment-events", PaymentEvent.parser());
    // Grows for ever, ends with the process: who has effects keeps what was seen together with them.
    static final Set<String> seen = new HashSet<>();
    static volatile boolean stopping;

    static String header(ConsumerRecord<?, ?> record, String name) {
        Header header = record.headers().lastHeader(name);
        // Not UTF-8: it makes one of all bytes that are none, and so of different ids.
        return header == null || header.value() == null ? "" : new String(header.value(), ISO_8859_1);
    }

    static void show(ConsumerRecord<byte[], byte[]> record) throws InvalidProtocolBufferException {
        String id = header(record, "ce_id"), sequence = header(record, "ce_sequence");
        if (id.isEmpty() || sequence.isEmpty() || record.value() == null)
            throw new InvalidProtocolBufferException("no ce_id, no ce_sequence or no value");
        // Plain protobuf, without a schema registry's framing.
        Message event = PARSERS.get(record.topic()).parseFrom(record.value());
        if (!seen.add(id)) return; // Kafka has each event once; a reader that crashed or lost a partition reads some again
        var type = event.getDescriptorForType();
        var what = event.getOneofFieldDescriptor(type.getOneofs().get(0)); // null: the event is newer than this reader
        var amount = what == null ? null : what.getMessageType().findFieldByName("amount");
        System.out.printf("%s %s %s %s %s %s%n", record.topic(), sequence,
            event.getField(type.findFieldByName("order_id")), event.getField(type.findFieldByName("version")),
            what == null ? "newer" : what.getName(), amount == null ? "-" : ((Message) event.getField(what)).getField(amount));
    }

    public static void main(String[] args) {
        boolean untilEnd = args.length > 1 && args[1].equals("--until-end");
        System.setProperty("org.slf4j.simpleLogger.defaultLogLevel", "warn");
        Map<String, Object> config = new HashMap<>(Map.of(
            "bootstrap.servers", args[0],
            "isolation.level", "read_committed", // the default shows what was aborted, too
            "auto.offset.reset", "earliest", // the default begins at the end
            "enable.auto.commit", "false",
            "allow.auto.create.topics", "false")); // by default a reader makes the topic that it misses
        if (!untilEnd) config.put("group.id", "example-java");
        var bytes = new ByteArrayDeserializer();
        try (var consumer = new KafkaConsumer<>(config, bytes, bytes)) {
            Thread main = Thread.currentThread();
            Runtime.getRuntime().addShutdownHook(new Thread(() -> { // Ctrl-C: the last records are printed and committed first
                stopping = true;
                try { main.join(); } catch (InterruptedException e) { }
            }));
            Map<TopicPartition, Long> ends = new HashMap<>();
            if (untilEnd) {
                var partitions = new ArrayList<TopicPartition>();
                for (String topic : PARSERS.keySet()) {
                    var infos = consumer.partitionsFor(topic);
                    if (infos.isEmpty()) throw new IllegalStateException(topic + " is not there");
                    infos.forEach(info -> partitions.add(new TopicPartition(topic, info.partition())));
                }
                consumer.assign(partitions);
                consumer.seekToBeginning(partitions);
                ends.putAll(consumer.endOffsets(partitions));
            } else consumer.subscribe(PARSERS.keySet());
            // By position, for the last record's offset tells nothing: where a transaction ends, a marker takes one up.
            while (!stopping && (!untilEnd || ends.keySet().stream().anyMatch(p -> consumer.position(p) < ends.get(p)))) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    try {
                        show(record);
                    } catch (InvalidProtocolBufferException e) {
                        String place = record.topic() + "/" + record.partition() + "@" + record.offset();
                        System.err.println("skipped " + place + ": " + e.getMessage());
                    }
                }
                try {
                    if (!untilEnd) consumer.commitSync(); // what was printed
                } catch (KafkaException e) { // such as a partition that has gone to another member, which reads this again
                    System.err.println(e.getMessage());
                }
            }
        }
    }
}
