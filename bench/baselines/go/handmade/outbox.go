package main

import (
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	outboxLimitBytes = 1 << 20
	writeTimeout     = time.Second
	pooledBytes      = 64 << 10
)

// outbox gathers frames of one connection until the flusher writes them.
type outbox struct {
	mu sync.Mutex
	// one is a single frame, perhaps shared with other connections: it is
	// only read. A second frame moves both to pending, which is the
	// connection's own.
	one     []byte
	pending *[]byte
	// queued: the connection is on the flusher's list, or a goroutine is
	// writing for it.
	queued bool
	closed bool
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

// send queues one encoded frame, which must not be changed afterwards.
func (c *client) send(frame []byte) {
	c.out.mu.Lock()
	if c.out.closed {
		c.out.mu.Unlock()
		return
	}
	switch {
	case c.out.pending != nil:
		*c.out.pending = append(*c.out.pending, frame...)
	case c.out.one != nil:
		c.out.pending = buffers.Get().(*[]byte)
		*c.out.pending = append(append((*c.out.pending)[:0], c.out.one...), frame...)
		c.out.one = nil
	default:
		c.out.one = frame
	}
	slow := c.out.pending != nil && len(*c.out.pending) > outboxLimitBytes
	if slow {
		c.out.closed, c.out.pending = true, nil
	}
	wake := !c.out.queued && !slow
	c.out.queued = true
	c.out.mu.Unlock()
	if slow {
		go c.close(closeSlow)
	}
	if wake {
		c.server.flusher.add(c)
	}
}

// take hands out what is queued and leaves the outbox empty.
func (c *client) take() (one []byte, pending *[]byte) {
	c.out.mu.Lock()
	one, pending = c.out.one, c.out.pending
	c.out.one, c.out.pending = nil, nil
	if one == nil && pending == nil {
		c.out.queued = false
	}
	c.out.mu.Unlock()
	return one, pending
}

// flusher writes for all connections that have something to send.
type flusher struct {
	mu    sync.Mutex
	dirty []*client
	wake  chan struct{}
}

func newFlusher() *flusher {
	return &flusher{wake: make(chan struct{}, 1)}
}

func (f *flusher) add(c *client) {
	f.mu.Lock()
	f.dirty = append(f.dirty, c)
	first := len(f.dirty) == 1
	f.mu.Unlock()
	if first {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// attempt is one write that does not wait. It lives as long as its flusher so
// that the closure given to the runtime is not made anew for every write.
type attempt struct {
	buf     []byte
	written int
	err     error
}

func (a *attempt) try(fd uintptr) bool {
	for {
		a.written, a.err = syscall.Write(int(fd), a.buf)
		if a.err != syscall.EINTR {
			return true
		}
	}
}

func (f *flusher) run() {
	var a attempt
	try := a.try
	var batch []*client
	for range f.wake {
		for {
			// Readers that are ready to run go first, so that one write
			// carries all that they cause.
			runtime.Gosched()
			f.mu.Lock()
			batch, f.dirty = f.dirty, batch[:0]
			f.mu.Unlock()
			if len(batch) == 0 {
				break
			}
			for i, c := range batch {
				c.flush(&a, try)
				batch[i] = nil
			}
		}
	}
}

// flush writes what the socket takes at once. What is left is written by a
// goroutine that may wait, up to the write timeout.
func (c *client) flush(a *attempt, try func(uintptr) bool) {
	one, pending := c.take()
	a.buf = one
	if pending != nil {
		a.buf = *pending
	}
	if a.buf == nil {
		return
	}
	a.written, a.err = 0, nil
	if err := c.raw.Write(try); err != nil {
		a.err = err
	}
	written := max(a.written, 0)
	rest := a.buf[written:]
	a.buf = nil
	if a.err != nil && a.err != syscall.EAGAIN {
		recycle(pending)
		c.drop()
		return
	}
	if len(rest) > 0 {
		go c.finish(rest, pending)
		return
	}
	recycle(pending)
	c.out.mu.Lock()
	again := c.out.one != nil || c.out.pending != nil
	c.out.queued = again
	c.out.mu.Unlock()
	if again {
		c.server.flusher.add(c)
	}
}

// finish writes until the outbox is empty.
func (c *client) finish(rest []byte, pending *[]byte) {
	for len(rest) > 0 {
		c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := c.conn.Write(rest)
		recycle(pending)
		if err != nil {
			c.drop()
			return
		}
		rest, pending = c.take()
		if pending != nil {
			rest = *pending
		}
	}
	c.conn.SetWriteDeadline(time.Time{})
}

func recycle(b *[]byte) {
	if b != nil && cap(*b) <= pooledBytes {
		buffers.Put(b)
	}
}
