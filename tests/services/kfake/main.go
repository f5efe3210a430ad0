// A Kafka broker in memory (franz-go's kfake) that is as old as it is asked to be, and fails when told to.
//
// Prints its addresses on the first line, then answers the commands on its standard input, each with one line,
// and ends when that ends:
//
//	fault API ERROR EVERY COUNT   fail COUNT requests of an API with an error, both by their Kafka names: each
//	                              EVERYth one, where partitions that a request names count one by one
//	hits                          how many requests were failed since the last fault
//	clear                         fail no more
//	write FROM TO                 write such tokens as values of 100 bytes, to the partitions in turn
//	read                          how many records there are, and then a line for each: partition, offset, key,
//	                              and the token that its value begins with
//	commits GROUP                 what a group has committed, as the broker has it: PARTITION:OFFSET of each
//	join ASSIGNOR GROUP           be a member of a group, one at a time, that reads and commits
//	held                          how many records the member has read, and which partitions it holds
//	leave                         end the member in an orderly way
//
// What writes, reads and is a member is franz-go's client.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

func main() {
	version := flag.String("as-version", "", "be a broker of this version, such as 2.8; empty: the newest")
	topic := flag.String("topic", "events", "a topic to make")
	partitions := flag.Int("partitions", 16, "its partitions")
	flag.Parse()
	options := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.SeedTopics(int32(*partitions), *topic),
		// Tests have short sessions.
		kfake.GroupMinSessionTimeout(time.Second),
		kfake.BrokerConfigs(map[string]string{
			"group.consumer.session.timeout.ms":    "3000",
			"group.consumer.heartbeat.interval.ms": "500",
		}),
	}
	if *version != "" {
		versions := kversion.FromString("v" + *version)
		if versions == nil {
			log.Fatalf("there is no Kafka %s", *version)
		}
		options = append(options, kfake.MaxVersions(versions))
	}
	cluster, err := kfake.NewCluster(options...)
	if err != nil {
		log.Fatal(err)
	}
	defer cluster.Close()
	fmt.Println(strings.Join(cluster.ListenAddrs(), ","))
	serve(cluster, *topic)
}

func serve(cluster *kfake.Cluster, topic string) {
	var faults *kfake.FaultHandle
	var joined *member
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) == 5 && words[0] == "fault":
			fault, err := faultOf(words[1], words[2], words[3], words[4])
			if err != nil {
				fmt.Println(err)
				continue
			}
			if faults != nil {
				faults.Remove()
			}
			faults = cluster.Fault(fault)
			fmt.Println("ok")
		case len(words) == 1 && words[0] == "hits" && faults != nil:
			fmt.Println(faults.Hits())
		case len(words) == 1 && words[0] == "clear" && faults != nil:
			faults.Remove()
			fmt.Println("ok")
		case len(words) == 3 && words[0] == "write":
			if err := write(cluster, topic, words[1], words[2]); err != nil {
				fmt.Println(err)
				continue
			}
			fmt.Println("ok")
		case len(words) == 1 && words[0] == "read":
			records, err := read(cluster, topic)
			if err != nil {
				fmt.Println(err)
				continue
			}
			fmt.Printf("%d\n%s", len(records), strings.Join(records, ""))
		case len(words) == 2 && words[0] == "commits":
			fmt.Println(strings.Join(commits(cluster, topic, words[1]), " "))
		case len(words) == 3 && words[0] == "join" && joined == nil:
			var err error
			if joined, err = join(cluster, topic, words[1], words[2]); err != nil {
				fmt.Println(err)
				continue
			}
			fmt.Println("ok")
		case len(words) == 1 && words[0] == "held" && joined != nil:
			fmt.Println(joined.state())
		case len(words) == 1 && words[0] == "leave" && joined != nil:
			joined.leave()
			joined = nil
			fmt.Println("ok")
		default:
			fmt.Println("not understood")
		}
	}
}

func faultOf(api, name, every, count string) (kfake.Fault, error) {
	var each, times int
	if _, err := fmt.Sscan(every+" "+count, &each, &times); err != nil || each < 1 {
		return kfake.Fault{}, fmt.Errorf("EVERY and COUNT are numbers")
	}
	key := int16(0)
	for ; kmsg.NameForKey(key) != api; key++ {
		if key == kmsg.MaxKey {
			return kfake.Fault{}, fmt.Errorf("there is no API %s", api)
		}
	}
	for code := int16(-1); code < 200; code++ {
		failure := kerr.TypedErrorForCode(code)
		if failure == nil || failure.Message != name {
			continue
		}
		seen := 0
		return kfake.Fault{
			Keys:  []kmsg.Key{kmsg.Key(key)},
			Err:   failure,
			Count: times,
			When: func(kmsg.Request) bool {
				seen++
				return seen%each == 0
			},
		}, nil
	}
	return kfake.Fault{}, fmt.Errorf("there is no error %s", name)
}

func commits(cluster *kfake.Cluster, topic, group string) []string {
	var lines []string
	if info := cluster.GroupInfo(group); info != nil {
		for partition, commit := range info.Commits[topic] {
			lines = append(lines, fmt.Sprintf("%d:%d", partition, commit.Offset))
		}
	}
	return lines
}

// How long a client may take for all of its records.
const patience = 30 * time.Second

func write(cluster *kfake.Cluster, topic, from, to string) error {
	var first, end int
	if _, err := fmt.Sscan(from+" "+to, &first, &end); err != nil {
		return fmt.Errorf("FROM and TO are numbers")
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(cluster.ListenAddrs()...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	partitions := len(cluster.PartitionInfos(topic))
	var records []*kgo.Record
	for token := first; token < end; token++ {
		value := fmt.Sprintf("%020d%s", token, strings.Repeat(".", 80))
		record := kgo.Record{Topic: topic, Partition: int32(token % partitions), Value: []byte(value)}
		records = append(records, &record)
	}
	limited, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return client.ProduceSync(limited, records...).FirstErr()
}

func read(cluster *kfake.Cluster, topic string) ([]string, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(cluster.ListenAddrs()...),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	limited, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	left := 0
	for _, partition := range cluster.PartitionInfos(topic) {
		left += int(partition.HighWatermark)
	}
	var lines []string
	for left > 0 {
		fetched := client.PollFetches(limited)
		if err := fetched.Err(); err != nil {
			return nil, err
		}
		fetched.EachRecord(func(record *kgo.Record) {
			left--
			token := record.Value[:min(20, len(record.Value))]
			lines = append(lines, fmt.Sprintf("%d %d %q %s\n", record.Partition, record.Offset, record.Key, token))
		})
	}
	return lines, nil
}

var assignors = map[string]kgo.GroupBalancer{
	"range":              kgo.RangeBalancer(),
	"roundrobin":         kgo.RoundRobinBalancer(),
	"sticky":             kgo.StickyBalancer(),
	"cooperative-sticky": kgo.CooperativeStickyBalancer(),
}

// A member of a group.
type member struct {
	client *kgo.Client
	stop   context.CancelFunc
	over   chan struct{}

	mutex   sync.Mutex
	held    map[int32]bool
	records int
}

func join(cluster *kfake.Cluster, topic, assignor, group string) (*member, error) {
	balancer := assignors[assignor]
	if balancer == nil {
		return nil, fmt.Errorf("there is no assignor %s", assignor)
	}
	joined := &member{over: make(chan struct{}), held: map[int32]bool{}}
	hold := func(holds bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
			joined.mutex.Lock()
			defer joined.mutex.Unlock()
			for _, partition := range topics[topic] {
				if holds {
					joined.held[partition] = true
				} else {
					delete(joined.held, partition)
				}
			}
		}
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(cluster.ListenAddrs()...),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.Balancers(balancer),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(3*time.Second),
		kgo.HeartbeatInterval(300*time.Millisecond),
		kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(hold(true)),
		kgo.OnPartitionsRevoked(hold(false)),
		kgo.OnPartitionsLost(hold(false)),
	)
	if err != nil {
		return nil, err
	}
	var until context.Context
	until, joined.stop = context.WithCancel(context.Background())
	joined.client = client
	go joined.run(until)
	return joined, nil
}

func (joined *member) run(until context.Context) {
	defer close(joined.over)
	for until.Err() == nil {
		fetched := joined.client.PollFetches(until)
		joined.mutex.Lock()
		joined.records += fetched.NumRecords()
		joined.mutex.Unlock()
		// What is refused is another's by now, or is committed with what comes next.
		_ = joined.client.CommitUncommittedOffsets(until)
	}
}

func (joined *member) state() string {
	joined.mutex.Lock()
	defer joined.mutex.Unlock()
	line := fmt.Sprint(joined.records)
	for partition := range joined.held {
		line += fmt.Sprintf(" %d", partition)
	}
	return line
}

func (joined *member) leave() {
	joined.stop()
	<-joined.over
	joined.client.Close()
}
