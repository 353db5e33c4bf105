"""A TCP peer by hand, on a TUN device in a network namespace of its own: it sends segments that overlap.

A retransmission may be cut elsewhere than the first transmission was (RFC 9293 section 3.10.7.4): TCP hands the whole
segment to the socket's queue and leaves it to the reader to skip what it has read before. Usage: overlap.py SLUICE
ENGINE, inside a fresh network namespace, as root.
"""
import base64, fcntl, hashlib, os, select, socket, struct, subprocess, sys, tempfile, time

SLUICE, ENGINE = sys.argv[1], sys.argv[2]
HOST, PEER = "10.83.0.1", "10.83.0.2"
PORT, PEER_PORT = 8080, 40000


def sh(*command):
    subprocess.run(command, check=True)


def tun():
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"overlap0", 0x0001 | 0x1000))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "address", "add", f"{HOST}/24", "dev", "overlap0")
    sh("ip", "link", "set", "overlap0", "up")
    return fd


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Peer:
    """Sends what it is told to, acknowledges what comes, and keeps what it got."""

    SYN, PSH, ACK = 2, 8, 16

    def __init__(self, fd):
        self.fd, self.first, self.acked, self.theirs, self.got = fd, 1000, 0, 0, b""

    def segment(self, seq, flags, data=b""):
        source, target = socket.inet_aton(PEER), socket.inet_aton(HOST)
        tcp = struct.pack("!HHIIBBHHH", PEER_PORT, PORT, seq % 2**32, self.theirs, 5 << 4, flags, 65535, 0, 0) + data
        pseudo = source + target + struct.pack("!BBH", 0, 6, len(tcp))
        tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, source, target)
        os.write(self.fd, ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + tcp)

    def read(self, timeout):
        if not select.select([self.fd], [], [], timeout)[0]:
            return
        packet = os.read(self.fd, 65536)
        if packet[0] >> 4 != 4 or packet[9] != 6:
            return
        tcp = packet[(packet[0] & 15) * 4 :]
        seq, self.acked, offset, flags = *struct.unpack("!II", tcp[4:12]), tcp[12] >> 4, tcp[13]
        data = tcp[offset * 4 :]
        if flags & self.SYN:
            self.theirs = seq + 1
        elif data and seq == self.theirs:
            self.got += data
            self.theirs += len(data)
            self.segment(self.next, self.ACK)

    def until(self, done, what):
        end = time.monotonic() + 10
        while not done():
            assert time.monotonic() < end, f"waited in vain until {what}"
            self.read(0.1)

    def connect(self):
        self.segment(self.first, self.SYN)
        self.until(lambda: self.theirs, "the connection is accepted")
        self.next = self.first + 1
        self.segment(self.next, self.ACK)

    def send(self, data):
        self.segment(self.next, self.ACK | self.PSH, data)
        self.next += len(data)
        self.until(lambda: self.acked == self.next % 2**32, "the bytes are acknowledged")

    def send_overlapping(self, back, data):
        """Sends a segment that begins `back` bytes before what has been acknowledged."""
        self.segment(self.next - back, self.ACK | self.PSH, data)
        self.next += len(data) - back
        self.until(lambda: self.acked == self.next % 2**32, "the bytes are acknowledged")


def backend(listener):
    stream, _ = listener.accept()
    head = b""
    while b"\r\n\r\n" not in head:
        head += stream.recv(4096)
    key = [line.split(b":", 1)[1].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")][0]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    stream.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    return stream


def main():
    peer = Peer(tun())
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    config = tempfile.NamedTemporaryFile("w", suffix=".toml")
    config.write(f"""
[[listener]]
bind = "{HOST}:{PORT}"
[[route]]
backend = "b"
[[backend]]
name = "b"
servers = ["127.0.0.1:{listener.getsockname()[1]}"]
[relay]
engine = "{ENGINE}"
""")
    config.flush()
    sluice = subprocess.Popen([SLUICE, "run", "--config", config.name], stderr=subprocess.PIPE, text=True)
    try:
        for line in sluice.stderr:
            if "ready" in line:
                break
        peer.connect()
        key = base64.b64encode(b"0123456789abcdef").decode()
        peer.send(f"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        stream = backend(listener)
        peer.until(lambda: b"\r\n\r\n" in peer.got, "the 101 has come")
        stream.settimeout(10)
        expected = b""
        message = bytes(range(256)) * 5
        sent = 0
        for back in [0, 1, 100, 700, 0, 1280]:
            fresh = message[: 1000 + back]
            # The first `back` bytes repeat the end of what was sent before, as a retransmission does.
            data = expected[len(expected) - back :] + fresh[:100]
            if back:
                peer.send_overlapping(back, data)
            else:
                data = fresh * 2
                peer.send(data[:1280])
                data = data[:1280]
            expected += data[back:]
        got = b""
        while len(got) < len(expected):
            got += stream.recv(65536)
        time.sleep(0.2)
        stream.setblocking(False)
        try:
            got += stream.recv(65536)
        except BlockingIOError:
            pass
        assert got == expected, f"{len(got)} bytes arrived, {len(expected)} were sent; first difference at {next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), 'the end')}"
        print(f"{ENGINE}: {len(got)} bytes arrived as they were sent, {len(expected)} of them once")
    finally:
        sluice.terminate()
        sluice.wait()


main()
