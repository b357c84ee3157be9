import static java.nio.charset.StandardCharsets.ISO_8859_1;

import com.example.orders.events.v1.OrderEvent;
import com.example.payments.events.v1.PaymentEvent;
import com.google.protobuf.*;
import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Prints the events of orders and payments, one per line, until Ctrl-C. Usage: Feed BROKERS [GROUP] */
public class Feed {
    static final Map<String, Parser<? extends Message>> PARSERS =
        Map.of("order-events", OrderEvent.parser(), "payment-events", PaymentEvent.parser());
    // Unbounded and lost at exit: a reader with side effects persists it together with them.
    static final Set<String> seen = new HashSet<>();
    static volatile boolean stopping;

    static void show(ConsumerRecord<byte[], byte[]> record) throws InvalidProtocolBufferException {
        var headers = new HashMap<String, String>(); // UTF-8 would decode all invalid bytes to the same text
        record.headers().forEach(h -> headers.put(h.key(), h.value() == null ? "" : new String(h.value(), ISO_8859_1)));
        if (headers.getOrDefault("ce_id", "").isEmpty() || headers.getOrDefault("ce_sequence", "").isEmpty() || record.value() == null)
            throw new InvalidProtocolBufferException("no ce_id, no ce_sequence or no value");
        Message event = PARSERS.get(record.topic()).parseFrom(record.value()); // plain protobuf, without a registry's framing
        if (!seen.add(headers.get("ce_id"))) return; // Kafka holds each once, but a restarted reader rereads some
        var type = event.getDescriptorForType();
        var what = event.getOneofFieldDescriptor(type.getOneofs().get(0)); // null: the event is newer than this reader
        var amount = what == null ? null : what.getMessageType().findFieldByName("amount");
        System.out.printf("%s %s %s %s %s %s%n", record.topic(), headers.get("ce_sequence"),
            event.getField(type.findFieldByName("order_id")), event.getField(type.findFieldByName("version")),
            what == null ? "newer" : what.getName(), amount == null ? "-" : ((Message) event.getField(what)).getField(amount));
    }

    public static void main(String[] args) {
        var bytes = new ByteArrayDeserializer();
        Map<String, Object> config = Map.of(
            "bootstrap.servers", args[0],
            "group.id", args.length > 1 ? args[1] : "example-java",
            "isolation.level", "read_committed", // the default also returns aborted records
            "auto.offset.reset", "earliest", // the default starts at the end
            "allow.auto.create.topics", "false"); // by default a consumer creates a missing topic
        try (var consumer = new KafkaConsumer<>(config, bytes, bytes)) {
            var main = Thread.currentThread();
            Runtime.getRuntime().addShutdownHook(new Thread(() -> { // on Ctrl-C, commits what was printed
                stopping = true;
                try { main.join(); } catch (InterruptedException e) { }
            }));
            consumer.subscribe(PARSERS.keySet());
            while (!stopping) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) { // commits earlier polls' records, every 5 s
                    try {
                        show(record);
                    } catch (InvalidProtocolBufferException e) {
                        System.err.printf("skipped %s/%d@%d: %s%n", record.topic(), record.partition(), record.offset(), e.getMessage());
                    }
                }
            }
        }
    }
}
