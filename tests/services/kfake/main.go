// A Kafka broker in memory (franz-go's kfake) that is as old as it is asked to be, and fails when told to.
//
// Prints its addresses on the first line, then answers the commands on its standard input, each with one line,
// and ends when that ends:
//
//	fault ERROR EVERY COUNT   fail each EVERYth produce request, COUNT times, with an error by its Kafka name
//	hits                      how many requests were failed since the last fault
//	clear                     fail no more
//	shuffle                   move the leaders of all partitions to other nodes
package main

import (
	"bufio"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

func main() {
	version := flag.String("as-version", "", "be a broker of this version, such as 2.8; empty: the newest")
	topic := flag.String("topic", "events", "a topic to make")
	partitions := flag.Int("partitions", 16, "its partitions")
	nodes := flag.Int("nodes", 1, "brokers of the cluster")
	flag.Parse()
	options := []kfake.Opt{
		kfake.NumBrokers(*nodes),
		kfake.SeedTopics(int32(*partitions), *topic),
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
	serve(cluster)
}

func serve(cluster *kfake.Cluster) {
	var faults *kfake.FaultHandle
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) == 4 && words[0] == "fault":
			fault, err := produceFault(words[1], words[2], words[3])
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
		case len(words) == 1 && words[0] == "shuffle":
			cluster.ShufflePartitionLeaders()
			fmt.Println("ok")
		default:
			fmt.Println("not understood")
		}
	}
}

func produceFault(name, every, count string) (kfake.Fault, error) {
	var each, times int
	if _, err := fmt.Sscan(every+" "+count, &each, &times); err != nil || each < 1 {
		return kfake.Fault{}, fmt.Errorf("EVERY and COUNT are numbers")
	}
	for code := int16(-1); code < 200; code++ {
		failure := kerr.TypedErrorForCode(code)
		if failure == nil || failure.Message != name {
			continue
		}
		seen := 0
		return kfake.Fault{
			Keys:  []kmsg.Key{kmsg.Produce},
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
