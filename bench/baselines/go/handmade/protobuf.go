package main

import "encoding/binary"

var protobufPing = []byte{0x82, 1, 0}

// protobufCommands handles all commands of one message: each is preceded by
// its length.
func (c *client) protobufCommands(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	for len(b) > 0 {
		body, rest, ok := cutBytes(b)
		if !ok {
			return false
		}
		b = rest
		var cmd command
		if !decodeProtobuf(body, &cmd) || !c.handle(&cmd) {
			return false
		}
	}
	return true
}

func decodeProtobuf(b []byte, cmd *command) bool {
	var inner []byte
	ok := eachField(b, func(number int, value uint64, bytes []byte) {
		switch {
		case number == 1:
			cmd.id = value
		case number >= kindConnect && number <= kindRPC+2 && (cmd.kind == 0 || number < cmd.kind):
			cmd.kind, inner = number, bytes
		}
	})
	if !ok {
		return false
	}
	kind := cmd.kind
	return eachField(inner, func(number int, _ uint64, bytes []byte) {
		switch {
		case kind == kindRPC && number == 1, kind == kindPublish && number == 2:
			cmd.data = bytes
		case kind == kindRPC && number == 2:
			cmd.method = bytes
		case number == 1:
			cmd.channel = bytes
		}
	})
}

func cutBytes(b []byte) (value, rest []byte, ok bool) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return nil, nil, false
	}
	return b[k : k+int(n)], b[k+int(n):], true
}

func eachField(b []byte, visit func(number int, value uint64, bytes []byte)) bool {
	for len(b) > 0 {
		key, k := binary.Uvarint(b)
		if k <= 0 {
			return false
		}
		b = b[k:]
		switch key & 7 {
		case 0:
			v, k := binary.Uvarint(b)
			if k <= 0 {
				return false
			}
			visit(int(key>>3), v, nil)
			b = b[k:]
		case 2:
			value, rest, ok := cutBytes(b)
			if !ok {
				return false
			}
			visit(int(key>>3), 0, value)
			b = rest
		case 1, 5:
			n := 8
			if key&7 == 5 {
				n = 4
			}
			if len(b) < n {
				return false
			}
			b = b[n:]
		default:
			return false
		}
	}
	return true
}

func varintLength(v int) int {
	n := 1
	for ; v >= 128; v >>= 7 {
		n++
	}
	return n
}

// fieldLength is that of a bytes field whose key takes one byte.
func fieldLength(v int) int {
	return 1 + varintLength(v) + v
}

func appendField(b []byte, key byte, value []byte) []byte {
	return append(binary.AppendUvarint(append(b, key), uint64(len(value))), value...)
}

// appendHeader begins an unmasked frame.
func appendHeader(b []byte, opcode byte, n int) []byte {
	switch {
	case n < 126:
		return append(b, 0x80|opcode, byte(n))
	case n < 65536:
		return append(b, 0x80|opcode, 126, byte(n>>8), byte(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, 0x80|opcode, 127), uint64(n))
	}
}

func protobufPublication(name, data []byte, id string) []byte {
	info := fieldLength(len(id))
	publication := fieldLength(len(data)) + fieldLength(info)
	push := fieldLength(len(name)) + fieldLength(publication)
	reply := fieldLength(push)
	message := varintLength(reply) + reply
	b := appendHeader(make([]byte, 0, message+10), 2, message)
	b = binary.AppendUvarint(b, uint64(reply))
	b = binary.AppendUvarint(append(b, 4<<3|2), uint64(push))
	b = appendField(b, 2<<3|2, name)
	b = binary.AppendUvarint(append(b, 4<<3|2), uint64(publication))
	b = appendField(b, 4<<3|2, data)
	b = binary.AppendUvarint(append(b, 5<<3|2), uint64(info))
	b = binary.AppendUvarint(append(b, 2<<3|2), uint64(len(id)))
	return append(b, id...)
}

// protobufReply frames {id, number: body}.
func protobufReply(id uint64, number byte, body []byte) []byte {
	reply := 1 + varintLength(int(id)) + fieldLength(len(body))
	message := varintLength(reply) + reply
	b := appendHeader(make([]byte, 0, message+10), 2, message)
	b = binary.AppendUvarint(b, uint64(reply))
	b = binary.AppendUvarint(append(b, 1<<3), id)
	return appendField(b, number<<3|2, body)
}
