package main

import (
	"crypto/rand"
	"encoding/hex"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lxzan/gws"
)

const (
	protobufName = "centrifuge-protobuf"
	jsonName     = "centrifuge-json"

	channelsPerClient  = 128
	channelLengthBytes = 255

	closeTimeout    = 100 * time.Millisecond
	closeSlow       = 3008
	closeNoPong     = 3012
	closeBadRequest = 3501

	errorAlreadySubscribed = 105
	errorLimitExceeded     = 106
	errorBadRequest        = 107
	errorMethodNotFound    = 104
)

// server has the callbacks of gws and what all clients share.
type server struct {
	gws.BuiltinEventHandler
	hub     hub
	pings   pings
	flusher *flusher
}

// client is one connection. Except for its outbox and pinged, its fields
// belong to its read loop.
type client struct {
	server        *server
	conn          net.Conn
	raw           syscall.RawConn
	protobuf      bool
	live          bool
	id            string
	subscriptions []*subscription
	pinged        atomic.Bool
	pingSlot      int
	pingIndex     int
	out           outbox
}

func (s *server) OnOpen(socket *gws.Conn) {
	conn := socket.NetConn()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		conn.Close()
		return
	}
	c := &client{server: s, conn: conn, raw: raw, protobuf: socket.SubProtocol() == protobufName}
	socket.Session().Store("client", c)
}

func (s *server) OnClose(socket *gws.Conn, _ error) {
	c := clientOf(socket)
	if c == nil {
		return
	}
	c.out.mu.Lock()
	c.out.closed = true
	c.out.one, c.out.pending = nil, nil
	c.out.mu.Unlock()
	for _, sub := range c.subscriptions {
		s.hub.leave(sub)
	}
	if c.live {
		s.pings.remove(c)
	}
}

func (s *server) OnPing(socket *gws.Conn, payload []byte) {
	if c := clientOf(socket); c != nil {
		c.send(append([]byte{0x8a, byte(len(payload))}, payload...))
	}
}

func (s *server) OnMessage(socket *gws.Conn, message *gws.Message) {
	defer message.Close()
	c := clientOf(socket)
	if c == nil {
		return
	}
	var ok bool
	if c.protobuf {
		ok = c.protobufCommands(message.Bytes())
	} else {
		ok = c.jsonCommands(message.Bytes())
	}
	if !ok {
		c.close(closeBadRequest)
	}
}

func clientOf(socket *gws.Conn) *client {
	value, ok := socket.Session().Load("client")
	if !ok {
		return nil
	}
	return value.(*client)
}

// command is one decoded command; its slices point into the message.
type command struct {
	id      uint64
	kind    int
	channel []byte
	data    []byte
	method  []byte
}

// The kinds are the field numbers of the protocol's Command.
const (
	kindPong        = 0
	kindConnect     = 4
	kindSubscribe   = 5
	kindUnsubscribe = 6
	kindPublish     = 7
	kindSend        = 12
	kindRPC         = 13
)

// handle says false when the connection must end.
func (c *client) handle(cmd *command) bool {
	if cmd.kind == kindPong {
		return c.pinged.CompareAndSwap(true, false)
	}
	if cmd.id == 0 || cmd.id > 1<<32-1 || c.live == (cmd.kind == kindConnect) {
		return false
	}
	switch cmd.kind {
	case kindConnect:
		c.live = true
		c.id = newID()
		c.server.pings.add(c)
		c.replyConnect(cmd.id)
	case kindSubscribe:
		return c.subscribe(cmd)
	case kindUnsubscribe:
		if i := c.find(cmd.channel); i >= 0 {
			c.server.hub.leave(c.subscriptions[i])
			c.subscriptions = append(c.subscriptions[:i], c.subscriptions[i+1:]...)
		}
		c.replyEmpty(cmd.id, kindUnsubscribe)
	case kindPublish:
		if len(cmd.channel) == 0 {
			return false
		}
		if len(cmd.data) == 0 {
			c.replyError(cmd.id, errorBadRequest, "bad request")
			return true
		}
		c.server.hub.publish(cmd.channel, cmd.data, c)
		c.replyEmpty(cmd.id, kindPublish)
	case kindRPC:
		if string(cmd.method) != "echo" {
			c.replyError(cmd.id, errorMethodNotFound, "method not found")
			return true
		}
		c.replyRPC(cmd.id, cmd.data)
	default:
		return false
	}
	return true
}

func (c *client) subscribe(cmd *command) bool {
	switch {
	case len(cmd.channel) == 0:
		return false
	case len(cmd.channel) > channelLengthBytes:
		c.replyError(cmd.id, errorBadRequest, "bad request")
		return true
	case c.find(cmd.channel) >= 0:
		c.replyError(cmd.id, errorAlreadySubscribed, "already subscribed")
		return true
	case len(c.subscriptions) >= channelsPerClient:
		c.replyError(cmd.id, errorLimitExceeded, "limit exceeded")
		return true
	}
	// The reply is queued before the channel knows of the client, so that it
	// precedes the first publication.
	c.replyEmpty(cmd.id, kindSubscribe)
	c.subscriptions = append(c.subscriptions, c.server.hub.subscribe(c, cmd.channel))
	return true
}

func (c *client) find(name []byte) int {
	for i, s := range c.subscriptions {
		if s.channel.name == string(name) {
			return i
		}
	}
	return -1
}

// close sends a close frame, if the socket takes it, and ends the connection.
func (c *client) close(code uint16) {
	c.conn.SetWriteDeadline(time.Now().Add(closeTimeout))
	c.conn.Write([]byte{0x88, 2, byte(code >> 8), byte(code)})
	c.drop()
}

// drop ends the connection; the read loop notices and cleans up.
func (c *client) drop() {
	c.out.mu.Lock()
	c.out.closed = true
	c.out.mu.Unlock()
	c.conn.Close()
}

func newID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
