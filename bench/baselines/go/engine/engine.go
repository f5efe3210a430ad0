// Package engine is what the baselines on the library centrifuge share: a node
// and a listener with Centrifugo's defaults.
//
// GOGC is taken from the environment. Pinned to one core (taskset), the Go
// runtime sees one CPU and so GOMAXPROCS is 1.
package engine

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/centrifugal/centrifuge"
)

// What Centrifugo sets where the library's own default differs.
const (
	pingInterval     = 25 * time.Second
	pongTimeout      = 8 * time.Second
	staleCloseDelay  = 10 * time.Second
	presenceInterval = 27 * time.Second
	publicationLimit = 300
)

// Run serves anonymous clients until it is told to stop; setHandlers says what
// a client may do. The node that runs is given to started, unless that is nil.
func Run(listen string, setHandlers func(*centrifuge.Client), started func(*centrifuge.Node)) {
	node, err := newNode()
	if err != nil {
		log.Fatal(err)
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{}}, nil
	})
	node.OnConnect(setHandlers)
	if err := node.Run(); err != nil {
		log.Fatal(err)
	}
	if started != nil {
		started(node)
	}

	mux := http.NewServeMux()
	mux.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		CheckOrigin:      func(*http.Request) bool { return true },
		MessageSizeLimit: 65536,
		WriteTimeout:     time.Second,
		PingPongConfig: centrifuge.PingPongConfig{
			PingInterval: pingInterval,
			PongTimeout:  pongTimeout,
		},
	}))
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on %s, GOMAXPROCS=%d\n", listener.Addr(), runtime.GOMAXPROCS(0))
	go func() { log.Fatal(http.Serve(listener, mux)) }()

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}

func newNode() (*centrifuge.Node, error) {
	return centrifuge.New(centrifuge.Config{
		Version:                      "bench",
		Name:                         "bench",
		LogLevel:                     centrifuge.LogLevelInfo,
		LogHandler:                   func(e centrifuge.LogEntry) { log.Println(e.Message, e.Fields) },
		ClientStaleCloseDelay:        staleCloseDelay,
		ClientPresenceUpdateInterval: presenceInterval,
		ClientQueueMaxSize:           1 << 20,
		ClientChannelLimit:           128,
		ChannelMaxLength:             255,
		HistoryMaxPublicationLimit:   publicationLimit,
		RecoveryMaxPublicationLimit:  publicationLimit,
	})
}
