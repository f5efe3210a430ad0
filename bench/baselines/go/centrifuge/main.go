// Command centrifuge is the baseline that every ratio of the benchmark is
// against: the library that is the engine of Centrifugo, set up with
// Centrifugo's defaults. Anonymous clients may connect, subscribe and publish;
// no presence; history only for channels named "history:…"; rpc "echo" gives
// its data back.
package main

import (
	"flag"
	"strings"
	"time"

	"github.com/centrifugal/centrifuge"

	"trine.bench/baselines/engine"
)

const (
	historySize = 100
	historyTTL  = time.Minute
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address of the client listener")
	flag.Parse()
	engine.Run(*listen, setHandlers, nil)
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
