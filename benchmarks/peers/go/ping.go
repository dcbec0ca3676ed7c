package main

import (
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
	exchange := func() {
		write(conn, data, to)
		if _, _, err := conn.ReadFromUDPAddrPort(data); err != nil {
			die("ReadFromUDPAddrPort", err)
		}
	}
	if way == "batching" {
		upgraded := upgrade(conn, 128)
		all := messages(128)
		batch := [][]byte{data}
		exchange = func() {
			writeBatch(upgraded, batch, to)
			for len(readBatch(upgraded, all)) == 0 {
			}
		}
	}
	sayPorts()
	for words := range commands {
		rate := 0.0
		if len(words) > 1 {
			rate, _ = strconv.ParseFloat(words[1], 64)
		}
		say(measure(exchange, number(words[0]), rate))
	}
}

// measure times exchanges, started at a rate if one is given.  An exchange that starts late,
// because the one before took too long, is timed from when it ought to have started.
func measure(exchange func(), count int, rate float64) map[string]float64 {
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
		exchange()
		times[i] = float64(time.Since(begin).Nanoseconds())
	}
	cpu := (cpuSeconds() - c.cpu) * 1e9 / float64(count)
	slices.Sort(times)
	at := func(share float64) float64 { return times[min(count-1, int(share*float64(count)))] }
	return map[string]float64{"p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "cpu": cpu}
}
