// Command feed prints the events of orders and payments, one per line, until Ctrl-C. Usage: feed BROKERS [GROUP]
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"

	orders "example.com/event-sourcing/gen/orders/events/v1"
	payments "example.com/event-sourcing/gen/payments/events/v1"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"
)

var seen = map[string]bool{} // unbounded and lost at exit: a reader with side effects persists it together with them

func show(record *kgo.Record) {
	headers := map[string]string{}
	for _, header := range record.Headers {
		headers[header.Key] = string(header.Value)
	}
	message := map[string]proto.Message{"order-events": &orders.OrderEvent{}, "payment-events": &payments.PaymentEvent{}}[record.Topic]
	if headers["ce_id"] == "" || headers["ce_sequence"] == "" || record.Value == nil || proto.Unmarshal(record.Value, message) != nil {
		log.Printf("skipped %s/%d@%d: no ce_id, no ce_sequence or no event", record.Topic, record.Partition, record.Offset)
		return
	}
	if seen[headers["ce_id"]] { // Kafka holds each event once, but a reader that crashed or lost a partition rereads some
		return
	}
	seen[headers["ce_id"]] = true
	event, name, amount := message.ProtoReflect(), "newer", "-"
	fields, oneof := event.Descriptor().Fields(), event.Descriptor().Oneofs().ByName("event")
	if set := event.WhichOneof(oneof); set != nil { // nil: the event is newer than this reader
		name = string(set.Name())
		if field := set.Message().Fields().ByName("amount"); field != nil {
			amount = event.Get(set).Message().Get(field).String()
		}
	}
	fmt.Println(record.Topic, headers["ce_sequence"], event.Get(fields.ByName("order_id")), event.Get(fields.ByName("version")), name, amount)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(os.Args[1], ",")...),
		kgo.ConsumerGroup(append(os.Args, "example-go")[2]), kgo.ConsumeTopics("order-events", "payment-events"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted())) // the default also returns aborted records
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	// The next poll marks the records of this one for the commit, which comes every 5 s and at the end.
	for fetches := client.PollFetches(ctx); ctx.Err() == nil; fetches = client.PollFetches(ctx) {
		fetches.EachError(func(topic string, partition int32, err error) { log.Println(topic, partition, err) })
		fetches.EachRecord(show)
	}
}
