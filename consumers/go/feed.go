//go:generate npx --yes @bufbuild/buf@1.75.0 generate ../../proto --path ../../proto/orders/events --path ../../proto/payments/events

// Command feed prints what happens to orders and payments, one line per event. Usage: feed BROKERS [--until-end]
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"maps"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	orders "example.com/event-sourcing/gen/orders/events/v1"
	payments "example.com/event-sourcing/gen/payments/events/v1"
)

var seen = map[string]bool{} // grows for ever, ends with the process: who has effects keeps what was seen with them

func show(record *kgo.Record) error {
	headers := map[string]string{}
	for _, header := range record.Headers {
		headers[header.Key] = string(header.Value)
	}
	if headers["ce_id"] == "" || headers["ce_sequence"] == "" || record.Value == nil {
		return fmt.Errorf("no ce_id, no ce_sequence or no value")
	}
	event := map[string]proto.Message{"order-events": &orders.OrderEvent{}, "payment-events": &payments.PaymentEvent{}}[record.Topic]
	if err := proto.Unmarshal(record.Value, event); err != nil || seen[headers["ce_id"]] {
		return err // nil: a record that was read again, as after a crash. Kafka has each event once
	}
	seen[headers["ce_id"]] = true
	message, name, amount := event.ProtoReflect(), "newer", "-"
	field := func(name protoreflect.Name) any {
		return message.Get(message.Descriptor().Fields().ByName(name)).Interface()
	}
	if set := message.WhichOneof(message.Descriptor().Oneofs().ByName("event")); set != nil { // else newer than this reader
		name = string(set.Name())
		if body, ok := message.Get(set).Message().Interface().(interface{ GetAmount() int64 }); ok {
			amount = fmt.Sprint(body.GetAmount())
		}
	}
	fmt.Println(record.Topic, headers["ce_sequence"], field("order_id"), field("version"), name, amount)
	return nil
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	untilEnd, topics := len(os.Args) > 2 && os.Args[2] == "--until-end", []string{"order-events", "payment-events"}
	mode := []kgo.Opt{kgo.ConsumerGroup("example-go"), kgo.DisableAutoCommit()} // by default it commits by the clock
	if untilEnd {
		mode = []kgo.Opt{kgo.KeepControlRecords()} // the markers that end transactions: they take up offsets, most often the last
	}
	client, err := kgo.NewClient(append(mode, kgo.SeedBrokers(strings.Split(os.Args[1], ",")...), kgo.ConsumeTopics(topics...),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), // the default shows what was aborted, too
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	unread := map[string]int64{} // the end, as it is now, of each partition that has records
	if untilEnd {
		ends, err := kadm.NewClient(client).ListCommittedOffsets(ctx, topics...)
		if err = cmp.Or(err, ends.Error()); err != nil {
			log.Fatal(err)
		}
		ends.Each(func(end kadm.ListedOffset) { unread[fmt.Sprint(end.Topic, "/", end.Partition)] = end.Offset })
		maps.DeleteFunc(unread, func(_ string, end int64) bool { return end == 0 })
	}
	for len(unread) > 0 || !untilEnd {
		// What was aborted just below a transaction that is still open leaves no marker to see: an error, rather than to hang.
		hung := time.AfterFunc(time.Minute, func() {
			if untilEnd {
				log.Fatal("nothing for a minute, and not at the end")
			}
		})
		fetches := client.PollFetches(ctx)
		if hung.Stop(); ctx.Err() != nil {
			break // Ctrl-C
		}
		fetches.EachError(func(topic string, partition int32, err error) { log.Println(topic, partition, err) })
		fetches.EachRecord(func(record *kgo.Record) {
			partition := fmt.Sprint(record.Topic, "/", record.Partition)
			if err := show(record); err != nil && !record.Attrs.IsControl() {
				log.Printf("skipped %s@%d: %v", partition, record.Offset, err)
			}
			if record.Offset+1 >= unread[partition] {
				delete(unread, partition)
			}
		})
		if err := client.CommitUncommittedOffsets(context.Background()); err != nil && !untilEnd {
			log.Println(err) // what was printed is read again after a restart
		}
	}
}
