package main

import (
	"net"
	"slices"
)

// step receives once and hands what came to look, datagram by datagram, if there is one; it
// returns how many came before the mark of the end, and whether that was among them.
type step func(look func([]byte)) (int, bool)

func receiver(way string, conn *net.UDPConn, sizes []int, count int) step {
	if way == "plain" {
		space := make([]byte, max(2048, slices.Max(sizes)))
		return func(look func([]byte)) (int, bool) {
			n, _, err := conn.ReadFromUDPAddrPort(space)
			if err != nil {
				die("ReadFromUDPAddrPort", err)
			}
			if n <= longestMark {
				return 0, true
			}
			if look != nil {
				look(space[:n])
			}
			return 1, false
		}
	}
	upgraded := upgrade(conn, count)
	all := messages(count)
	return func(look func([]byte)) (int, bool) {
		datagrams, ended := 0, false
		for i := range readBatch(upgraded, all) {
			n := all[i].N
			if n > longestMark {
				datagrams++
				if look != nil {
					look(all[i].Buffers[0][:n])
				}
			} else if n > 0 { // 0: a message that was split, or an empty datagram, nobody can tell
				ended = true
			}
		}
		return datagrams, ended
	}
}

func receive(way string, sizes []int, count int) {
	conn := listenReceiver()
	next := receiver(way, conn, sizes, count)
	say(map[string]any{"ports": []int{portOf(conn)}, "offload": offload(conn)})
	for words := range commands {
		var r record
		switch words[0] {
		case "flush":
			flush(conn)
		case "check":
			upToMark(next, false, &r, func(data []byte) {
				if differs(data, r.Datagrams, sizes) {
					r.Wrong++
				}
				r.Datagrams++
			})
		default:
			upToMark(next, words[0] == "live", &r, nil)
		}
		say(r)
	}
}

// upToMark receives; live: the clocks start behind what came first.
func upToMark(next step, live bool, r *record, look func([]byte)) {
	total, ended := 0, false
	if live {
		total, ended = next(nil)
	}
	c := start()
	for !ended {
		var n int
		n, ended = next(look)
		r.Measured += n
		r.Calls++
	}
	c.stop(r)
	r.Datagrams = total + r.Measured
}
