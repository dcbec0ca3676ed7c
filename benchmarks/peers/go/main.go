// The Go peers: tailscale.com/net/batching as its contract says, and plain net.UDPConn.
//
//	peers send    WAY SIZE COUNT DEST...
//	peers recv    WAY SIZE COUNT
//	peers echo    WAY SIZE COUNT
//	peers forward WAY SIZE COUNT DEST
//	peers ping    WAY SIZE DEST
//	peers version
//
// WAY is batching or plain; SIZE may be a list that is cycled through, separated by commas.
// It speaks the protocol of benchmarks/peers/README.md.  What the original cannot do ends the
// process with the original's own words on stderr: ReadBatch, for one, fails for good with
// "splitting coalesced packet resulted in overflow" if a train has more datagrams than it has
// room for, which is 127 of 128.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

const usage = "usage: peers send|recv|echo|forward|ping WAY SIZE ..., see the top of main.go"

func die(what string, err error) {
	fmt.Fprintf(os.Stderr, "peers (Go): %s: %v\n", what, err)
	os.Exit(1)
}

func wrong(text string) {
	fmt.Fprintln(os.Stderr, text)
	os.Exit(2)
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil || value < 1 || value > 65507 {
		wrong("peers (Go): " + text + " must be 1 to 65507")
	}
	return value
}

func numbers(text string) []int {
	var sizes []int
	for _, part := range strings.Split(text, ",") {
		sizes = append(sizes, number(part))
	}
	return sizes
}

// destination reads PORT, of this machine, or HOST:PORT.
func destination(text string) netip.AddrPort {
	if !strings.Contains(text, ":") {
		text = net.JoinHostPort("127.0.0.1", text)
	}
	to, err := netip.ParseAddrPort(text)
	if err != nil {
		wrong(err.Error())
	}
	return to
}

func destinations(texts []string) []netip.AddrPort {
	var all []netip.AddrPort
	for _, text := range texts {
		all = append(all, destination(text))
	}
	if len(all) == 0 {
		wrong(usage)
	}
	return all
}

// version tells what this was built from.
func version() {
	info, _ := debug.ReadBuildInfo()
	versions := map[string]string{"toolchain": runtime.Version()}
	for _, module := range info.Deps {
		versions[module.Path] = module.Version
	}
	json.NewEncoder(os.Stdout).Encode(map[string]string{
		"batching":  "tailscale.com/net/batching " + versions["tailscale.com"],
		"toolchain": versions["toolchain"],
	})
}

func main() {
	arguments := os.Args[1:]
	if len(arguments) == 1 && arguments[0] == "version" {
		version()
		return
	}
	if len(arguments) < 4 {
		wrong(usage)
	}
	role, way, sizes := arguments[0], arguments[1], numbers(arguments[2])
	if way != "batching" && way != "plain" {
		wrong("peers (Go): no way " + way)
	}
	rest := arguments[3:]
	switch role {
	case "send":
		send(way, sizes, number(rest[0]), destinations(rest[1:]))
	case "recv":
		receive(way, sizes, number(rest[0]))
	case "echo":
		echo(way, number(rest[0]))
	case "forward":
		forward(way, number(rest[0]), destinations(rest[1:])[0])
	case "ping":
		ping(way, sizes[0], destination(rest[0]))
	default:
		wrong(usage)
	}
}
