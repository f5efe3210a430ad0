// Command handmade is the second Go baseline: what a good Go engineer would
// write for speed. gws carries the socket; the client protocol (connect,
// subscribe, unsubscribe, publish, rpc "echo", pings) is encoded by hand in
// JSON and Protobuf; channels live in sharded maps; a publication is encoded
// once per format, WebSocket header included; a shared flusher writes what was
// gathered for a connection in one system call. A client that leaves more than
// 1 MiB unread is cut off with 3008.
//
// GOGC is taken from the environment. Pinned to one core (taskset), the Go
// runtime sees one CPU and so GOMAXPROCS is 1.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/lxzan/gws"
)

const (
	messageLimitBytes = 65536
	readBufferBytes   = 2048
	handshakeTimeout  = 10 * time.Second
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address of the client listener")
	flag.Parse()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on %s, GOMAXPROCS=%d\n", listener.Addr(), runtime.GOMAXPROCS(0))

	s := &server{flusher: newFlusher()}
	for range runtime.GOMAXPROCS(0) {
		go s.flusher.run()
	}
	go s.pings.run()
	upgrader := gws.NewUpgrader(s, &gws.ServerOption{
		ReadBufferSize:     readBufferBytes,
		ReadMaxPayloadSize: messageLimitBytes,
		SubProtocols:       []string{protobufName, jsonName},
		Logger:             silent{},
	})
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go accept(upgrader, conn)
	}
}

// accept answers the upgrade request. The read loop gets a goroutine of its
// own so that nothing of the request stays in memory.
func accept(upgrader *gws.Upgrader, conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(handshakeTimeout))
	reader := bufio.NewReaderSize(conn, readBufferBytes)
	request, err := http.ReadRequest(reader)
	if err != nil || request.URL.Path != "/connection/websocket" {
		conn.Close()
		return
	}
	socket, err := upgrader.UpgradeFromConn(conn, reader, request)
	if err == nil {
		go socket.ReadLoop()
	}
}

// silent drops gws's note on every connection that ends.
type silent struct{}

func (silent) Error(...any) {}
