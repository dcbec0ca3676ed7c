package main

import (
	"net"
	"net/netip"
)

// sayCPU answers each line with the CPU time used so far, and returns with the last.
func sayCPU() {
	for range commands {
		say(map[string]float64{"cpu": cpuSeconds()})
	}
}

// echo sends back what comes, each run of datagrams of one source as one batch.
func echo(way string, count int) {
	conn := listenReceiver()
	sayPorts(portOf(conn))
	if way == "plain" {
		go eachPlain(conn, func(data []byte, from netip.AddrPort) { write(conn, data, from) })
		sayCPU()
		return
	}
	upgraded := upgrade(conn, count)
	go func() {
		all := messages(count)
		batch := make([][]byte, 0, count)
		for {
			var to netip.AddrPort
			for _, m := range readBatch(upgraded, all) {
				if m.N == 0 {
					continue
				}
				from := m.Addr.(*net.UDPAddr).AddrPort()
				if from != to && len(batch) > 0 {
					writeBatch(upgraded, batch, to)
					batch = batch[:0]
				}
				to = from
				batch = append(batch, m.Buffers[0][:m.N])
			}
			if len(batch) > 0 {
				writeBatch(upgraded, batch, to)
				batch = batch[:0]
			}
		}
	}()
	sayCPU()
}

// forward sends what comes in on one socket out of another.
func forward(way string, count int, to netip.AddrPort) {
	conn, out := listenReceiver(), listenFor(to)
	sayPorts(portOf(conn))
	if way == "plain" {
		go eachPlain(conn, func(data []byte, _ netip.AddrPort) { write(out, data, to) })
		sayCPU()
		return
	}
	from, onward := upgrade(conn, count), upgrade(out, count)
	go func() {
		all := messages(count)
		batch := make([][]byte, 0, count)
		for {
			for _, m := range readBatch(from, all) {
				if m.N > 0 {
					batch = append(batch, m.Buffers[0][:m.N])
				}
			}
			if len(batch) > 0 {
				writeBatch(onward, batch, to)
				batch = batch[:0]
			}
		}
	}()
	sayCPU()
}

func eachPlain(conn *net.UDPConn, do func([]byte, netip.AddrPort)) {
	space := make([]byte, slot)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(space)
		if err != nil {
			die("ReadFromUDPAddrPort", err)
		}
		do(space[:n], from)
	}
}
