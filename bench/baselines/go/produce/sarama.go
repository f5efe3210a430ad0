package main

import (
	"time"

	"github.com/IBM/sarama"
)

type saramaProducer struct {
	client sarama.AsyncProducer
	topic  string
	// Holds one for each record that is not settled.
	unsettled chan struct{}
	settled   chan struct{}
}

func newSarama(o *options, m *meter) (producer, error) {
	config := sarama.NewConfig()
	config.Version = sarama.V4_0_0_0
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Idempotent = true
	// Idempotence is refused with more.
	config.Net.MaxOpenRequests = 1
	config.Producer.Return.Successes = true
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Flush.Frequency = time.Duration(o.linger)
	config.Producer.Flush.Bytes = o.batchBytes
	if o.linger == 0 {
		// Zero bytes and time: what there is goes at once.
		config.Producer.Flush.Bytes = 0
	}
	config.Producer.MaxMessageBytes = o.batchBytes
	client, err := sarama.NewAsyncProducer(o.brokers, config)
	if err != nil {
		return nil, err
	}
	p := &saramaProducer{client, o.topic, make(chan struct{}, o.outstanding), make(chan struct{})}
	go p.settle(m)
	return p, nil
}

func (p *saramaProducer) settle(m *meter) {
	defer close(p.settled)
	successes, errors := p.client.Successes(), p.client.Errors()
	for successes != nil || errors != nil {
		select {
		case message, ok := <-successes:
			if !ok {
				successes = nil
				continue
			}
			dueNs, _ := message.Metadata.(int64)
			m.settled(dueNs, nil)
		case failure, ok := <-errors:
			if !ok {
				errors = nil
				continue
			}
			m.settled(0, failure.Err)
		}
		<-p.unsettled
	}
}

func (p *saramaProducer) send(partition int32, value []byte, dueNs int64) {
	message := &sarama.ProducerMessage{Topic: p.topic, Partition: partition, Value: sarama.ByteEncoder(value)}
	if dueNs != 0 {
		message.Metadata = dueNs
	}
	p.unsettled <- struct{}{}
	p.client.Input() <- message
}

func (p *saramaProducer) close() error {
	p.client.AsyncClose()
	<-p.settled
	return nil
}
