// Command produce measures the producer of a Kafka client alone: franz-go or
// sarama, with acks from all in-sync replicas and idempotence. It prints one
// line of JSON.
//
// Closed loop: as many records as --outstanding allows, for --seconds after
// --warm-up. Open loop (--clock): a record for each due time that comes on the
// standard input, eight bytes each, in nanoseconds since 1970, little endian;
// latency counts from there. `clock`, in ../../src/bin, sends them.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"log"
	"os"
	"strings"
	"time"
)

type options struct {
	brokers     []string
	topic       string
	partitions  int
	valueBytes  int
	outstanding int
	linger      time.Duration
	batchBytes  int
	warmUp      time.Duration
	measured    time.Duration
	clock       bool
}

// A producer sends value to a partition. A due time other than zero is given
// back to the meter with the acknowledgement.
type producer interface {
	// send may wait until fewer than options.outstanding are unsettled.
	send(partition int32, value []byte, dueNs int64)
	// close waits until everything is settled.
	close() error
}

func main() {
	var o options
	client := flag.String("client", "franz-go", "franz-go or sarama")
	brokers := flag.String("brokers", "127.0.0.1:9092", "brokers to begin with, separated by commas")
	warmUp := flag.Float64("warm-up", 1, "seconds before measuring")
	seconds := flag.Float64("seconds", 3, "seconds measured")
	lingerMs := flag.Float64("linger-ms", 0, "how long a batch waits for more records")
	flag.StringVar(&o.topic, "topic", "bench", "where records go")
	flag.IntVar(&o.partitions, "partitions", 16, "they take turns")
	flag.IntVar(&o.valueBytes, "value-bytes", 128, "of a record")
	flag.IntVar(&o.outstanding, "outstanding", 10000, "records without an acknowledgement, at most")
	flag.IntVar(&o.batchBytes, "batch-bytes", 1000000, "of a batch, at most")
	flag.BoolVar(&o.clock, "clock", false, "open loop, by the due times on the standard input")
	flag.Parse()
	o.brokers = strings.Split(*brokers, ",")
	o.linger = time.Duration(*lingerMs * float64(time.Millisecond))
	o.warmUp, o.measured = duration(*warmUp), duration(*seconds)

	meter := &meter{}
	var p producer
	var err error
	switch *client {
	case "franz-go":
		p, err = newFranz(&o, meter)
	case "sarama":
		p, err = newSarama(&o, meter)
	default:
		err = errors.New("no such client: " + *client)
	}
	if err != nil {
		log.Fatal(err)
	}
	if o.clock {
		open(&o, p, meter)
	} else {
		closed(&o, p, meter)
	}
	if err := p.close(); err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(meter.report(*client)); err != nil {
		log.Fatal(err)
	}
}

func closed(o *options, p producer, m *meter) {
	value := payload(o.valueBytes)
	begin := time.Now()
	for n := 0; ; n++ {
		// A look at the clock costs little beside what it is shared by.
		if n%256 == 0 {
			since := time.Since(begin)
			if since >= o.warmUp {
				m.start()
			}
			if since >= o.warmUp+o.measured {
				m.stop()
				return
			}
		}
		p.send(int32(n%o.partitions), value, 0)
	}
}

func open(o *options, p producer, m *meter) {
	value := payload(o.valueBytes)
	begin, n := int64(0), 0
	eachDue(os.Stdin, func(dueNs int64) {
		if begin == 0 {
			begin = dueNs
		}
		since := time.Duration(dueNs - begin)
		stamp := int64(0)
		switch {
		case since >= o.warmUp+o.measured:
			m.stop()
		case since >= o.warmUp:
			m.start()
			stamp = dueNs
		}
		p.send(int32(n%o.partitions), value, stamp)
		n++
	})
	m.stop()
}

func payload(bytes int) []byte {
	return []byte(strings.Repeat("x", bytes))
}

func duration(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second))
}
