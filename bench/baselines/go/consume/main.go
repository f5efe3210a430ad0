// Command consume measures a member of a consumer group alone, on franz-go: it
// reads --records from the beginning of a topic, commits as the library does by
// default, and prints one line of JSON. CPU counts from before the group is
// joined; the rate, from the first record. Offsets of a partition must be
// without gap: what is not is an error.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"trine.bench/baselines/measure"
)

type report struct {
	Client         string  `json:"client"`
	Seconds        float64 `json:"seconds"`
	Records        int     `json:"records"`
	RecordsPerS    float64 `json:"records_per_s"`
	CPUUsPerRecord float64 `json:"cpu_us_per_record"`
	ValueBytes     int     `json:"value_bytes"`
	Errors         int     `json:"errors"`
}

func main() {
	brokers := flag.String("brokers", "127.0.0.1:9092", "brokers to begin with, separated by commas")
	topic := flag.String("topic", "bench", "what is read")
	group := flag.String("group", "bench", "a group that has committed nothing")
	records := flag.Int("records", 1000000, "how many are read")
	limit := flag.Duration("limit", time.Minute, "how long that may take")
	flag.Parse()

	began, cpu := time.Now(), measure.CPU()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(*brokers, ",")...),
		kgo.ConsumerGroup(*group),
		kgo.ConsumeTopics(*topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), *limit)
	defer cancel()

	r := report{Client: "franz-go"}
	next := make(map[int32]int64)
	var first time.Time
	for r.Records < *records {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			log.Fatalf("%d of %d records came within %s", r.Records, *records, *limit)
		}
		fetches.EachError(func(_ string, _ int32, err error) { log.Println(err); r.Errors++ })
		if first.IsZero() && fetches.NumRecords() > 0 {
			first = time.Now()
		}
		fetches.EachRecord(func(record *kgo.Record) {
			if record.Offset != next[record.Partition] {
				r.Errors++
			}
			next[record.Partition] = record.Offset + 1
			r.ValueBytes += len(record.Value)
			r.Records++
		})
	}
	if err := client.CommitUncommittedOffsets(ctx); err != nil {
		log.Fatal(err)
	}
	r.Seconds = time.Since(began).Seconds()
	r.RecordsPerS = float64(r.Records) / time.Since(first).Seconds()
	r.CPUUsPerRecord = float64((measure.CPU() - cpu).Nanoseconds()) / 1e3 / float64(r.Records)
	client.Close()
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		log.Fatal(err)
	}
}
