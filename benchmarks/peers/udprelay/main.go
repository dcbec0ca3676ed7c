// Tailscale's udprelay as it is, with two clients bound to a VNI: a contender of
// benchmarks/relays.py.
//
//	udprelay
//
// It starts the server on loopback, binds two clients to it by the handshake that the server
// asks for, and prints {"ports": [SERVER, CLIENT, CLIENT], "vni": VNI}.  The clients' sockets
// are closed by then: whoever binds their ports is, to the server, the client.  It ends with
// stdin.  The server hears on every address of the machine, since it knows no other way.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"time"

	"tailscale.com/disco"
	"tailscale.com/net/packet"
	"tailscale.com/net/udprelay"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
	"tailscale.com/types/views"
	"tailscale.com/util/usermetric"
)

const patience = 5 * time.Second

// client is one of the two that a VNI is for, while it shakes hands.
type client struct {
	sock          *net.UDPConn
	vni           uint32
	own           key.DiscoPrivate
	other, server key.DiscoPublic
}

func main() {
	log.SetFlags(0)
	server, endpoint, keys := serve()
	defer server.Close()
	ports := []uint16{endpoint.Port()}
	allocated, err := server.AllocateEndpoint(keys[0].Public(), keys[1].Public())
	check(err)
	var clients []*client
	for i, own := range keys {
		sock, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(endpoint))
		check(err)
		clients = append(clients, &client{
			sock: sock, vni: allocated.VNI, own: own,
			other: keys[1-i].Public(), server: allocated.ServerDisco,
		})
		ports = append(ports, sock.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	}
	for _, each := range clients {
		each.bind()
	}
	prove(clients)
	for _, each := range clients {
		check(each.sock.Close())
	}
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{"ports": ports, "vni": allocated.VNI}))
	_, err = io.Copy(io.Discard, os.Stdin)
	check(err)
}

// serve starts the server on a free port.
func serve() (*udprelay.Server, netip.AddrPort, [2]key.DiscoPrivate) {
	free, err := net.ListenUDP("udp", nil)
	check(err)
	port := free.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	check(free.Close())
	server, err := udprelay.NewServer(logger.Discard, port, true, new(usermetric.Registry), nil)
	check(err)
	endpoint := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	server.SetStaticAddrPorts(views.SliceOf([]netip.AddrPort{endpoint}))
	return server, endpoint, [2]key.DiscoPrivate{key.NewDisco(), key.NewDisco()}
}

// bind shakes hands: bind, challenge, answer.
func (c *client) bind() {
	common := disco.BindUDPRelayEndpointCommon{VNI: c.vni, Generation: 1, RemoteKey: c.other}
	c.say(&disco.BindUDPRelayEndpoint{BindUDPRelayEndpointCommon: common})
	challenge, ok := c.hear().(*disco.BindUDPRelayEndpointChallenge)
	if !ok {
		log.Fatal("udprelay: no challenge")
	}
	answer := &disco.BindUDPRelayEndpointAnswer{BindUDPRelayEndpointCommon: common}
	answer.Challenge = challenge.Challenge
	c.say(answer)
}

func (c *client) say(message disco.Message) {
	datagram := c.header(true, packet.GeneveProtocolDisco)
	datagram = append(datagram, disco.Magic...)
	datagram = c.own.Public().AppendTo(datagram)
	datagram = append(datagram, c.own.Shared(c.server).Seal(message.AppendMarshal(nil))...)
	_, err := c.sock.Write(datagram)
	check(err)
}

func (c *client) hear() disco.Message {
	check(c.sock.SetReadDeadline(time.Now().Add(patience)))
	buffer := make([]byte, 1<<16)
	n, err := c.sock.Read(buffer)
	check(err)
	before := packet.GeneveFixedHeaderLength + len(disco.Magic) + key.DiscoPublicRawLen
	if n < before {
		log.Fatalf("udprelay: a message of %d bytes", n)
	}
	opened, ok := c.own.Shared(c.server).Open(buffer[before:n])
	if !ok {
		log.Fatal("udprelay: a message that is not for us")
	}
	message, err := disco.Parse(opened)
	check(err)
	return message
}

func (c *client) header(isControl bool, protocol uint16) []byte {
	header := packet.GeneveHeader{Control: isControl, Protocol: protocol}
	header.VNI.Set(c.vni)
	encoded := make([]byte, packet.GeneveFixedHeaderLength, 512)
	check(header.Encode(encoded))
	return encoded
}

// prove sends one datagram each way, again and again until the server, which says nothing to
// an answer, has heard both of them and lets it through.
func prove(clients []*client) {
	buffer := make([]byte, 1<<16)
	for i, from := range clients {
		to := clients[1-i]
		datagram := append(from.header(false, packet.GeneveProtocolWireGuard), "proof"...)
		err := fmt.Errorf("never sent")
		for end := time.Now().Add(patience); err != nil && time.Now().Before(end); {
			_, err = from.sock.Write(datagram)
			check(err)
			check(to.sock.SetReadDeadline(time.Now().Add(10 * time.Millisecond)))
			_, err = to.sock.Read(buffer)
		}
		check(err)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal("udprelay: ", err)
	}
}
