package main

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
)

type franz struct {
	client  *kgo.Client
	meter   *meter
	promise func(*kgo.Record, error)
}

func newFranz(o *options, m *meter) (producer, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(o.brokers...),
		kgo.DefaultProduceTopic(o.topic),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerLinger(o.linger),
		kgo.ProducerBatchMaxBytes(int32(o.batchBytes)),
		kgo.MaxBufferedRecords(o.outstanding),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
	)
	if err != nil {
		return nil, err
	}
	promise := func(_ *kgo.Record, err error) { m.settled(0, err) }
	return &franz{client, m, promise}, nil
}

func (f *franz) send(partition int32, value []byte, dueNs int64) {
	promise := f.promise
	if dueNs != 0 {
		promise = func(_ *kgo.Record, err error) { f.meter.settled(dueNs, err) }
	}
	f.client.Produce(context.Background(), &kgo.Record{Partition: partition, Value: value}, promise)
}

func (f *franz) close() error {
	err := f.client.Flush(context.Background())
	f.client.Close()
	return err
}
