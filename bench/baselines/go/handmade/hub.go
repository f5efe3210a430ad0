package main

import (
	"hash/maphash"
	"sync"
)

const hubShards = 64

// hub knows who is subscribed to what.
type hub struct {
	shards [hubShards]hubShard
}

type hubShard struct {
	mu       sync.RWMutex
	channels map[string]*channel
}

type channel struct {
	name        string
	shard       *hubShard
	subscribers []*subscription
}

// subscription is both an entry of its channel and one of its client's list.
// index, its place in the channel, is guarded by the shard's lock.
type subscription struct {
	client  *client
	channel *channel
	index   int
}

var hashSeed = maphash.MakeSeed()

func (h *hub) shard(name []byte) *hubShard {
	return &h.shards[maphash.Bytes(hashSeed, name)%hubShards]
}

// subscribe is called from the client's read loop only, as is leave.
func (h *hub) subscribe(c *client, name []byte) *subscription {
	s := h.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	ch := s.channels[string(name)]
	if ch == nil {
		ch = &channel{name: string(name), shard: s}
		if s.channels == nil {
			s.channels = make(map[string]*channel)
		}
		s.channels[ch.name] = ch
	}
	sub := &subscription{client: c, channel: ch, index: len(ch.subscribers)}
	ch.subscribers = append(ch.subscribers, sub)
	return sub
}

func (h *hub) leave(sub *subscription) {
	ch := sub.channel
	ch.shard.mu.Lock()
	defer ch.shard.mu.Unlock()
	last := len(ch.subscribers) - 1
	moved := ch.subscribers[last]
	ch.subscribers[sub.index] = moved
	moved.index = sub.index
	ch.subscribers[last] = nil
	ch.subscribers = ch.subscribers[:last]
	if last == 0 {
		delete(ch.shard.channels, ch.name)
	}
}

// publish gives every subscriber of the channel the publication, encoded once
// for each format that some subscriber uses.
func (h *hub) publish(name, data []byte, from *client) {
	s := h.shard(name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	ch := s.channels[string(name)]
	if ch == nil {
		return
	}
	var asJSON, asProtobuf []byte
	for _, sub := range ch.subscribers {
		if sub.client.protobuf {
			if asProtobuf == nil {
				asProtobuf = protobufPublication(name, data, from.id)
			}
			sub.client.send(asProtobuf)
		} else {
			if asJSON == nil {
				asJSON = jsonPublication(name, data, from.id)
			}
			sub.client.send(asJSON)
		}
	}
}
