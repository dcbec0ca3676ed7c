//! A socket of quinn-udp that waits when it has to.

use std::io::{ErrorKind, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};

use crate::protocol::die;

static RECEIVE_BUFFER: libc::c_int = 32 << 20;
const SLOT: usize = 65536; // no UDP message, merged or not, is longer than 65535
pub const PAYLOAD: usize = 65507; // 65535 - 20 - 8: IPv4 total length less its and UDP's header

pub struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    fn bind(host: IpAddr) -> Self {
        let made = UdpSocket::bind((host, 0)).and_then(|io| {
            let state = UdpSocketState::new((&io).into())?;
            Ok(Self { io, state })
        });
        let socket = made.unwrap_or_else(|error| die("socket", &error));
        // quinn-udp has a call for SO_RCVBUF only, which the kernel limits.
        let size = (&raw const RECEIVE_BUFFER).cast();
        for option in [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF] {
            let fd = socket.io.as_raw_fd();
            if unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, size, 4) } == 0 {
                break;
            }
        }
        socket
    }

    /// Binds to BENCH_HOST.
    pub fn receiver() -> Self {
        let host = std::env::var("BENCH_HOST").unwrap_or_default();
        Self::bind(host.parse().unwrap_or(Ipv4Addr::LOCALHOST.into()))
    }

    /// Binds where a destination can be reached from.
    pub fn sender(to: SocketAddr) -> Self {
        Self::bind(match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        })
    }

    pub fn port(&self) -> u16 {
        self.io.local_addr().unwrap_or_else(|error| die("address", &error)).port()
    }

    /// Datagrams that a train of a segment size may have.
    pub fn longest_train(&self, segment_size: usize) -> usize {
        self.state.max_gso_segments().min(PAYLOAD / segment_size).max(1)
    }

    fn wait(&self, events: libc::c_short) {
        let mut poll = libc::pollfd { fd: self.io.as_raw_fd(), events, revents: 0 };
        unsafe { libc::poll(&mut poll, 1, -1) };
    }

    pub fn send(&self, transmit: &Transmit) {
        while let Err(error) = self.state.try_send((&self.io).into(), transmit) {
            match error.kind() {
                ErrorKind::WouldBlock => self.wait(libc::POLLOUT),
                _ => die("try_send", &error),
            }
        }
    }

    pub fn send_to(&self, data: &[u8], segment_size: Option<usize>, destination: SocketAddr) {
        let (ecn, src_ip) = (None, None);
        self.send(&Transmit { destination, ecn, contents: data, segment_size, src_ip });
    }

    /// Throws away what is queued.
    pub fn flush(&self) {
        while self.io.recv_from(&mut [0]).is_ok() {}
    }
}

/// What `recv` fills: so many slots as quinn-udp takes at a time, or as there are to be in a batch.
pub struct Slots {
    buffers: Vec<Vec<u8>>,
    metas: Vec<RecvMeta>,
}

impl Slots {
    pub fn new(count: usize) -> Self {
        let count = count.min(BATCH_SIZE);
        Self { buffers: vec![vec![0; SLOT]; count], metas: vec![RecvMeta::default(); count] }
    }

    /// Waits for messages and returns each with what is said of it.
    pub fn fill(&mut self, socket: &Socket) -> impl Iterator<Item = (&[u8], &RecvMeta)> {
        let mut slices: [_; BATCH_SIZE] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        for (slice, buffer) in slices.iter_mut().zip(&mut self.buffers) {
            *slice = IoSliceMut::new(buffer);
        }
        let slices = &mut slices[..self.metas.len()];
        let messages = loop {
            match socket.state.recv((&socket.io).into(), slices, &mut self.metas) {
                Ok(messages) => break messages,
                Err(error) if error.kind() == ErrorKind::WouldBlock => socket.wait(libc::POLLIN),
                Err(error) => die("recv", &error),
            }
        };
        let filled = self.buffers.iter().zip(&self.metas).take(messages);
        filled.map(|(buffer, meta)| (&buffer[..meta.len], meta))
    }
}
