// Command centrifuge is the baseline that every ratio of the benchmark is
// against: the library that is the engine of Centrifugo, set up with
// Centrifugo's defaults. Anonymous clients may connect, subscribe and publish;
// no presence; history only for channels named "history:…"; rpc "echo" gives
// its data back.
//
// GOGC is taken from the environment. Pinned to one core (taskset), the Go
// runtime sees one CPU and so GOMAXPROCS is 1.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strings"
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
	historySize      = 100
	historyTTL       = time.Minute
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address of the client listener")
	flag.Parse()

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
	listener, err := net.Listen("tcp", *listen)
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

func setHandlers(client *centrifuge.Client) {
	client.OnSubscribe(func(e centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
		recover := keepsHistory(e.Channel)
		reply(centrifuge.SubscribeReply{
			Options: centrifuge.SubscribeOptions{EnableRecovery: recover, EnablePositioning: recover},
		}, nil)
	})
	client.OnPublish(func(e centrifuge.PublishEvent, reply centrifuge.PublishCallback) {
		options := centrifuge.PublishOptions{ClientInfo: e.ClientInfo}
		if keepsHistory(e.Channel) {
			options.HistorySize, options.HistoryTTL = historySize, historyTTL
		}
		reply(centrifuge.PublishReply{Options: options}, nil)
	})
	client.OnRPC(func(e centrifuge.RPCEvent, reply centrifuge.RPCCallback) {
		if e.Method != "echo" {
			reply(centrifuge.RPCReply{}, centrifuge.ErrorMethodNotFound)
			return
		}
		reply(centrifuge.RPCReply{Data: e.Data}, nil)
	})
}

func keepsHistory(channel string) bool {
	return strings.HasPrefix(channel, "history:")
}
