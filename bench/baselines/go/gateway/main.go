// Command gateway is the baseline of the durable rows: a gateway as a good Go
// engineer would write it, on the library centrifuge and on franz-go. Rpc
// "ticket.create" and what is published into "durable:…" become records of a
// topic and are answered, and fanned out, only once every in-sync replica has
// them; the rpc's reply says where the record is. With --channel all records
// have one key, and a member of a consumer group publishes them into that
// channel.
package main

import (
	"context"
	"flag"
	"log"
	"strconv"
	"strings"
	"time"

	"github.com/centrifugal/centrifuge"
	"github.com/twmb/franz-go/pkg/kgo"

	"trine.bench/baselines/engine"
)

// What Trine's log.timeout_ms is by default.
const deliveryTimeout = 3 * time.Second

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address of the client listener")
	brokers := flag.String("brokers", "127.0.0.1:9092", "brokers to begin with, separated by commas")
	topic := flag.String("topic", "ticket.create", "where records go")
	linger := flag.Duration("linger", 0, "how long a batch waits for more records")
	channel := flag.String("channel", "", "where a consumer of the topic publishes; empty: there is none")
	group := flag.String("group", "gateway", "of that consumer")
	flag.Parse()

	seeds := kgo.SeedBrokers(strings.Split(*brokers, ",")...)
	producer, err := kgo.NewClient(
		seeds,
		kgo.DefaultProduceTopic(*topic),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerLinger(*linger),
		kgo.RecordDeliveryTimeout(deliveryTimeout),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer producer.Close()
	var key []byte
	var started func(*centrifuge.Node)
	if *channel != "" {
		key = []byte(*channel)
		started = func(node *centrifuge.Node) { go deliver(node, *channel, *group, *topic, seeds) }
	}
	engine.Run(*listen, func(client *centrifuge.Client) { setHandlers(client, producer, key) }, started)
}

// deliver publishes what is in a topic. Offsets are committed as the library
// does by default: what a poll gave, by the next one at the earliest.
func deliver(node *centrifuge.Node, channel, group, topic string, seeds kgo.Opt) {
	consumer, err := kgo.NewClient(
		seeds,
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) { log.Println("assigned") }),
	)
	if err != nil {
		log.Fatal(err)
	}
	for {
		fetches := consumer.PollFetches(context.Background())
		fetches.EachError(func(_ string, _ int32, err error) { log.Println(err) })
		fetches.EachRecord(func(record *kgo.Record) {
			if _, err := node.Publish(channel, record.Value); err != nil {
				log.Println(err)
			}
		})
	}
}

func setHandlers(client *centrifuge.Client, producer *kgo.Client, key []byte) {
	client.OnSubscribe(func(_ centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
		reply(centrifuge.SubscribeReply{}, nil)
	})
	client.OnPublish(func(e centrifuge.PublishEvent, reply centrifuge.PublishCallback) {
		options := centrifuge.PublishOptions{ClientInfo: e.ClientInfo}
		if !strings.HasPrefix(e.Channel, "durable:") {
			reply(centrifuge.PublishReply{Options: options}, nil)
			return
		}
		produce(producer, key, e.Data, func(_ *kgo.Record, err error) {
			if err != nil {
				reply(centrifuge.PublishReply{}, centrifuge.ErrorInternal)
				return
			}
			reply(centrifuge.PublishReply{Options: options}, nil)
		})
	})
	client.OnRPC(func(e centrifuge.RPCEvent, reply centrifuge.RPCCallback) {
		if e.Method != "ticket.create" {
			reply(centrifuge.RPCReply{}, centrifuge.ErrorMethodNotFound)
			return
		}
		produce(producer, key, e.Data, func(record *kgo.Record, err error) {
			if err != nil {
				reply(centrifuge.RPCReply{}, centrifuge.ErrorInternal)
				return
			}
			reply(centrifuge.RPCReply{Data: place(record)}, nil)
		})
	})
}

// produce never waits: a buffer that is full is an error like any other, so
// that a client's reader is not held up by the log.
func produce(producer *kgo.Client, key, value []byte, promise func(*kgo.Record, error)) {
	producer.TryProduce(context.Background(), &kgo.Record{Key: key, Value: value}, promise)
}

// place is {"at":"kafka","partition":3,"log_offset":42}.
func place(record *kgo.Record) []byte {
	text := make([]byte, 0, 64)
	text = append(text, `{"at":"kafka","partition":`...)
	text = strconv.AppendInt(text, int64(record.Partition), 10)
	text = append(text, `,"log_offset":`...)
	text = strconv.AppendInt(text, record.Offset, 10)
	return append(text, '}')
}
