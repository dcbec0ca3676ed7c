package main

import (
	"net"
	"net/netip"
	"strconv"
	"time"
)

// group is what of a batch goes to one destination.
type group struct {
	to        netip.AddrPort
	datagrams [][]byte
}

// lay deals count datagrams out to the destinations, in turn.
func lay(sizes []int, count int, to []netip.AddrPort) []group {
	groups := make([]group, len(to))
	for i := range count {
		g := &groups[i%len(to)]
		g.to = to[i%len(to)]
		g.datagrams = append(g.datagrams, make([]byte, sizes[i%len(sizes)]))
	}
	return groups[:min(len(to), count)]
}

// sender returns what sends the groups of a batch.
func sender(way string, conn *net.UDPConn, count int) func([]group) {
	if way == "plain" {
		return func(groups []group) {
			for _, g := range groups {
				for _, data := range g.datagrams {
					write(conn, data, g.to)
				}
			}
		}
	}
	upgraded := upgrade(conn, count)
	return func(groups []group) {
		for _, g := range groups {
			writeBatch(upgraded, g.datagrams, g.to)
		}
	}
}

func send(way string, sizes []int, count int, to []netip.AddrPort) {
	conn := listenFor(to[0])
	call := sender(way, conn, count)
	groups := lay(sizes, count, to)
	marker := listenFor(to[0])
	sayPorts()
	for words := range commands {
		var r record
		if words[0] == "check" {
			check(call, sizes, count, to, number(words[1]), &r)
		} else {
			seconds, err := strconv.ParseFloat(words[0], 64)
			calls, err2 := strconv.Atoi(words[1])
			if err != nil || err2 != nil {
				wrong("peers (Go): SECONDS CALLS [MARK], not " + words[0] + " " + words[1])
			}
			run(func() { call(groups) }, seconds, calls, &r)
			r.Measured = r.Calls * count
		}
		r.Datagrams = r.Measured
		mark := []byte(nil)
		if len(words) > 2 && words[2] == "1" {
			mark = []byte(".")
		}
		// Behind all that may still be merged on its way: another flow could overtake.
		time.Sleep(beforeMark)
		for _, address := range to {
			write(marker, mark, address)
		}
		say(r)
	}
}

// run calls for so many seconds, or, where these are 0, so many times.
func run(call func(), seconds float64, calls int, r *record) {
	c := start()
	end := c.wall.Add(time.Duration(seconds * 1e9))
	if seconds > 0 {
		for time.Now().Before(end) {
			for range callsALook {
				call()
			}
			r.Calls += callsALook
		}
	} else {
		for range calls {
			call()
		}
		r.Calls = calls
	}
	c.stop(r)
}

// check sends total patterns; each destination sees its own count from 0.
func check(call func([]group), sizes []int, count int, to []netip.AddrPort, total int, r *record) {
	sent := make(map[netip.AddrPort]int, len(to))
	c := start()
	for left := total; left > 0; left -= count {
		groups := lay(sizes, min(count, left), to)
		for _, g := range groups {
			for k := range g.datagrams {
				i := sent[g.to]
				sent[g.to]++
				g.datagrams[k] = make([]byte, sizes[i%len(sizes)])
				fill(g.datagrams[k], i)
			}
		}
		call(groups)
		r.Calls++
		r.Measured += min(count, left)
	}
	c.stop(r)
}
