// The Go peers of the comparison: tailscale.com/net/batching, and the plain net.UDPConn.
module batching.example/peers

go 1.26.6

require (
	golang.org/x/net v0.56.0
	golang.org/x/sys v0.47.0
	tailscale.com v1.102.5
)

require (
	github.com/dblohm7/wingoes v0.0.0-20240119213807-a09d6be7affa // indirect
	github.com/go-json-experiment/json v0.0.0-20260214004413-d219187c3433 // indirect
	go4.org/mem v0.0.0-20240501181205-ae6ca9944745 // indirect
	golang.org/x/crypto v0.54.0 // indirect
	golang.org/x/exp v0.0.0-20260410095643-746e56fc9e2f // indirect
)
