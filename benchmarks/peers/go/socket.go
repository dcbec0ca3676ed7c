package main

import (
	"errors"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"tailscale.com/net/batching"
	"tailscale.com/net/packet"
)

// slot is what udprelay and wireguard-go give ReadBatch for each message.
const slot = 1<<16 - 1

// listen binds a UDP socket to port 0 of a host, with a large queue for what comes in.
func listen(host string) *net.UDPConn {
	address, err := netip.ParseAddr(host)
	if err != nil {
		die("address", err)
	}
	conn, err := net.ListenUDP(network(address), net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 0)))
	if err != nil {
		die("socket", err)
	}
	control(conn, func(fd int) {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveSpace) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveSpace)
		}
	})
	return conn
}

// listenReceiver binds to BENCH_HOST.
func listenReceiver() *net.UDPConn {
	if host := os.Getenv("BENCH_HOST"); host != "" {
		return listen(host)
	}
	return listen(loopback)
}

// listenFor binds where a destination can be reached from.
func listenFor(to netip.AddrPort) *net.UDPConn {
	if to.Addr().Is6() {
		return listen("::")
	}
	return listen("0.0.0.0")
}

func network(address netip.Addr) string {
	if address.Is6() {
		return "udp6"
	}
	return "udp4"
}

func portOf(conn *net.UDPConn) int {
	return conn.LocalAddr().(*net.UDPAddr).Port
}

func control(conn *net.UDPConn, do func(fd int)) {
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { do(int(fd)) })
	}
	if err != nil {
		die("socket", err)
	}
}

// flush throws away what is queued.
func flush(conn *net.UDPConn) {
	control(conn, func(fd int) {
		space := make([]byte, 1)
		for {
			_, _, err := unix.Recvfrom(fd, space, unix.MSG_DONTWAIT)
			if err != nil && err != unix.EINTR {
				return
			}
		}
	})
}

// upgrade makes the batching connection of a socket, for batches of count datagrams.
func upgrade(conn *net.UDPConn, count int) batching.Conn {
	local := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	upgraded, ok := batching.TryUpgradeToConn(conn, network(local.Unmap()), count, "", nil).(batching.Conn)
	if !ok {
		die("TryUpgradeToConn", errors.New("not upgraded"))
	}
	return upgraded
}

// offload tells what the kernel offers to a batching connection, as TryUpgradeToConn asks for it.
func offload(conn *net.UDPConn) map[string]bool {
	var gso, gro bool
	control(conn, func(fd int) {
		_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		gso = err == nil
		on, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO)
		gro = err == nil && on == 1
	})
	return map[string]bool{"gso": gso, "gro": gro}
}

// messages are what ReadBatch reads into, made as net/udprelay makes them.
func messages(count int) []ipv6.Message {
	all := make([]ipv6.Message, count)
	for i := range all {
		all[i].Buffers = [][]byte{make([]byte, slot)}
		all[i].OOB = make([]byte, batching.MinControlMessageSize())
	}
	return all
}

// again makes messages fit to be read into once more, as net/udprelay does.
func again(all []ipv6.Message) {
	for i := range all {
		all[i] = ipv6.Message{Buffers: all[i].Buffers, OOB: all[i].OOB[:cap(all[i].OOB)]}
	}
}

func readBatch(conn batching.Conn, all []ipv6.Message) []ipv6.Message {
	again(all)
	n, err := conn.ReadBatch(all, 0)
	if err != nil {
		die("ReadBatch", err)
	}
	return all[:n]
}

func writeBatch(conn batching.Conn, datagrams [][]byte, to netip.AddrPort) {
	if err := conn.WriteBatchTo(datagrams, to, packet.GeneveHeader{}, 0); err != nil {
		die("WriteBatchTo", err)
	}
}

func write(conn *net.UDPConn, data []byte, to netip.AddrPort) {
	if _, err := conn.WriteToUDPAddrPort(data, to); err != nil {
		die("WriteToUDPAddrPort", err)
	}
}
