package main

import (
	"bytes"
	"strconv"
)

var jsonPing = []byte{0x81, 2, '{', '}'}

// jsonCommands handles all commands of one message: one on each line.
func (c *client) jsonCommands(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	for len(b) > 0 {
		line, rest, _ := bytes.Cut(b, []byte{'\n'})
		b = rest
		var cmd command
		if !decodeJSON(line, &cmd) || !c.handle(&cmd) {
			return false
		}
	}
	return true
}

var jsonKinds = map[string]int{
	"connect": kindConnect, "subscribe": kindSubscribe, "unsubscribe": kindUnsubscribe,
	"publish": kindPublish, "send": kindSend, "rpc": kindRPC,
}

func decodeJSON(b []byte, cmd *command) bool {
	var inner []byte
	ok := eachMember(b, func(key, value []byte) bool {
		if string(key) == "id" {
			id, err := strconv.ParseUint(string(value), 10, 64)
			cmd.id = id
			return err == nil
		}
		if kind := jsonKinds[string(key)]; kind != 0 && (cmd.kind == 0 || kind < cmd.kind) {
			cmd.kind, inner = kind, value
		}
		return true
	})
	if !ok || cmd.kind == 0 {
		return ok
	}
	return eachMember(inner, func(key, value []byte) bool {
		ok := true
		switch string(key) {
		case "channel":
			cmd.channel, ok = text(value)
		case "method":
			cmd.method, ok = text(value)
		case "data":
			cmd.data = value
		}
		return ok
	})
}

// eachMember visits the members of an object with their raw values.
func eachMember(b []byte, visit func(key, value []byte) bool) bool {
	i := space(b, 0)
	if i >= len(b) || b[i] != '{' {
		return false
	}
	i = space(b, i+1)
	if i < len(b) && b[i] == '}' {
		return space(b, i+1) == len(b)
	}
	for {
		end := skipString(b, i)
		if end < 0 {
			return false
		}
		key := b[i+1 : end-1]
		i = space(b, end)
		if i >= len(b) || b[i] != ':' {
			return false
		}
		start := space(b, i+1)
		end = skipValue(b, start)
		if end < 0 || !visit(key, b[start:end]) {
			return false
		}
		i = space(b, end)
		if i >= len(b) {
			return false
		}
		if b[i] == '}' {
			return space(b, i+1) == len(b)
		}
		if b[i] != ',' {
			return false
		}
		i = space(b, i+1)
	}
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// skipString gives the index after the string that starts at i, or -1.
func skipString(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	for i++; i < len(b); i++ {
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return -1
}

// skipValue gives the index after the value that starts at i, or -1. What is
// inside arrays and objects is only checked for balance.
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for i < len(b) {
			switch b[i] {
			case '"':
				if i = skipString(b, i); i < 0 {
					return -1
				}
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return -1
	}
	start := i
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && b[i] > ' ' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// text gives what a JSON string says.
func text(value []byte) ([]byte, bool) {
	if len(value) < 2 || value[0] != '"' {
		return nil, false
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1], true
	}
	s, err := strconv.Unquote(string(value))
	return []byte(s), err == nil
}

// appendQuoted writes a string that needs no more than the basic escapes.
func appendQuoted(b, s []byte) []byte {
	b = append(b, '"')
	for _, x := range s {
		switch {
		case x == '"' || x == '\\':
			b = append(b, '\\', x)
		case x < ' ':
			b = append(b, `\u00`...)
			b = append(b, "0123456789abcdef"[x>>4], "0123456789abcdef"[x&15])
		default:
			b = append(b, x)
		}
	}
	return append(b, '"')
}

func jsonPublication(name, data []byte, id string) []byte {
	b := make([]byte, 0, 128+len(name)+len(data)+len(id))
	b = append(b, make([]byte, 10)...)
	b = append(b, `{"push":{"channel":`...)
	b = appendQuoted(b, name)
	b = append(b, `,"pub":{"data":`...)
	b = append(b, data...)
	b = append(b, `,"info":{"user":"","client":"`...)
	b = append(b, id...)
	b = append(b, `"}}}}`...)
	return jsonFrame(b)
}

// jsonReply frames {"id":id,"name":body}.
func jsonReply(id uint64, name string, body []byte) []byte {
	b := make([]byte, 10, 48+len(name)+len(body))
	b = append(b, `{"id":`...)
	b = strconv.AppendUint(b, id, 10)
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	b = append(b, body...)
	b = append(b, '}')
	return jsonFrame(b)
}

// jsonFrame puts the header into the ten bytes left for it.
func jsonFrame(b []byte) []byte {
	var space [10]byte
	header := appendHeader(space[:0], 1, len(b)-10)
	start := 10 - len(header)
	copy(b[start:], header)
	return b[start:]
}
