package main

import (
	"encoding/binary"
	"strconv"
)

// The field numbers of the protocol's Reply.
const (
	replyError       = 2
	replyConnect     = 5
	replySubscribe   = 6
	replyUnsubscribe = 7
	replyPublish     = 8
	replyRPC         = 13
)

func (c *client) replyConnect(id uint64) {
	if !c.protobuf {
		c.send(jsonReply(id, "connect", []byte(`{"client":"`+c.id+`","version":"bench","ping":25,"pong":true}`)))
		return
	}
	body := appendField(nil, 1<<3|2, []byte(c.id))
	body = appendField(body, 2<<3|2, []byte("bench"))
	c.send(protobufReply(id, replyConnect, append(body, 7<<3, pingIntervalSeconds, 8<<3, 1)))
}

// replyEmpty answers a command whose result has no fields.
func (c *client) replyEmpty(id uint64, kind int) {
	number, name := byte(replyPublish), "publish"
	switch kind {
	case kindSubscribe:
		number, name = replySubscribe, "subscribe"
	case kindUnsubscribe:
		number, name = replyUnsubscribe, "unsubscribe"
	}
	if c.protobuf {
		c.send(protobufReply(id, number, nil))
	} else {
		c.send(jsonReply(id, name, []byte("{}")))
	}
}

func (c *client) replyRPC(id uint64, data []byte) {
	if c.protobuf {
		c.send(protobufReply(id, replyRPC, appendField(nil, 1<<3|2, data)))
		return
	}
	body := append([]byte(`{"data":`), data...)
	c.send(jsonReply(id, "rpc", append(body, '}')))
}

func (c *client) replyError(id uint64, code int, message string) {
	if c.protobuf {
		body := binary.AppendUvarint([]byte{1 << 3}, uint64(code))
		c.send(protobufReply(id, replyError, appendField(body, 2<<3|2, []byte(message))))
		return
	}
	c.send(jsonReply(id, "error", []byte(`{"code":`+strconv.Itoa(code)+`,"message":"`+message+`"}`)))
}
