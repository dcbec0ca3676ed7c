package main

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ping makes requests and waits for the response of each before the next.
func ping(way string, size int, to netip.AddrPort) {
	conn := listenFor(to)
	data := make([]byte, size)
	fill(data, 0)
	space := make([]byte, slot)
	exchange := func() []byte {
		write(conn, data, to)
		n, _, err := conn.ReadFromUDPAddrPort(space)
		if err != nil {
			die("ReadFromUDPAddrPort", err)
		}
		return space[:n]
	}
	if way == "batching" {
		upgraded := upgrade(conn, 128)
		all := messages(128)
		batch := [][]byte{data}
		exchange = func() []byte {
			writeBatch(upgraded, batch, to)
			for len(readBatch(upgraded, all)) == 0 {
			}
			return all[0].Buffers[0][:all[0].N]
		}
	}
	sayPorts()
	for words := range commands {
		rate := 0.0
		if len(words) > 1 {
			rate, _ = strconv.ParseFloat(words[1], 64)
		}
		say(measure(exchange, data, number(words[0]), rate))
	}
}

// measure times exchanges, started at a rate if one is given.  An exchange that starts late,
// because the one before took too long, is timed from when it ought to have started.
func measure(exchange func() []byte, data []byte, count int, rate float64) map[string]float64 {
	times := make([]float64, count)
	c := start()
	for i := range times {
		begin := time.Now()
		if rate > 0 {
			due := c.wall.Add(time.Duration(float64(i) / rate * 1e9))
			if wait := due.Sub(begin); wait > 0 {
				// time.Sleep rounds up to milliseconds (runtime/netpoll_epoll.go).
				t := unix.NsecToTimespec(wait.Nanoseconds())
				unix.Nanosleep(&t, nil)
				begin = time.Now()
			} else {
				begin = due
			}
		}
		answer := exchange()
		times[i] = float64(time.Since(begin).Nanoseconds())
		if !bytes.Equal(answer, data) {
			die("ping", errors.New("another answer than the request"))
		}
	}
	cpu := (cpuSeconds() - c.cpu) * 1e9 / float64(count)
	slices.Sort(times)
	at := func(share float64) float64 { return times[min(count-1, int(share*float64(count)))] }
	return map[string]float64{"p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "cpu": cpu}
}
