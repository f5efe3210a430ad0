package main

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	pingIntervalSeconds = 25
	pongTimeoutSeconds  = 8
	slotsPerSecond      = 10
	slots               = pingIntervalSeconds * slotsPerSecond
	pongSlots           = pongTimeoutSeconds * slotsPerSecond
)

// pings is a wheel of one ping interval: a connection stays in its slot, which
// comes round once an interval, and is looked at again for its pong.
type pings struct {
	mu    sync.Mutex
	now   int
	wheel [slots][]*client
}

// add puts the first ping at a random point of the interval's second half.
func (p *pings) add(c *client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.pingSlot = (p.now + slots/2 + rand.IntN(slots/2)) % slots
	c.pingIndex = len(p.wheel[c.pingSlot])
	p.wheel[c.pingSlot] = append(p.wheel[c.pingSlot], c)
}

func (p *pings) remove(c *client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	slot := p.wheel[c.pingSlot]
	last := len(slot) - 1
	slot[c.pingIndex] = slot[last]
	slot[c.pingIndex].pingIndex = c.pingIndex
	slot[last] = nil
	p.wheel[c.pingSlot] = slot[:last]
}

func (p *pings) run() {
	for range time.Tick(time.Second / slotsPerSecond) {
		var mute []*client
		p.mu.Lock()
		p.now = (p.now + 1) % slots
		for _, c := range p.wheel[p.now] {
			c.pinged.Store(true)
			if c.protobuf {
				c.send(protobufPing)
			} else {
				c.send(jsonPing)
			}
		}
		for _, c := range p.wheel[(p.now+slots-pongSlots)%slots] {
			if c.pinged.Load() {
				mute = append(mute, c)
			}
		}
		p.mu.Unlock()
		for _, c := range mute {
			go c.close(closeNoPong)
		}
	}
}
