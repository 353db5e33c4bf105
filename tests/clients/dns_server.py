"""A DNS server made with PyPI's dnslib, on UDP and TCP: prints its port, then a line for every question.

The first argument is a zone file, which is read again when it has changed: `*` in front of a type, or a type, behind
`!servfail`, `!silent`, `!garbage` or `!empty` says how questions for it are answered instead (`!servfail AAAA`). The
second one is the port to listen on.
"""

import os
import sys
import threading
import time

from dnslib import QTYPE, RCODE, RR, DNSError, DNSRecord
from dnslib.server import DNSHandler, DNSLogger, DNSServer

TTL_OF_NO = "no. 300 SOA ns.no. admin.no. 1 300 300 300 300"


class Zone:
    def __init__(self, path):
        self.path, self.read, self.lock = path, None, threading.Lock()

    def now(self):
        with self.lock:
            changed = os.stat(self.path).st_ino, os.stat(self.path).st_mtime_ns
            if changed != self.read:
                lines = open(self.path).read().splitlines()
                self.modes = [line[1:].split() for line in lines if line.startswith("!")]
                self.records = RR.fromZone("\n".join(line for line in lines if not line.startswith("!")))
                self.read = changed
            return self.modes, self.records

    def mode(self, question):
        modes, _ = self.now()
        return next((mode for mode, kind in modes if kind in ("*", QTYPE[question.qtype])), None)

    def resolve(self, request, _handler):
        question, reply = request.q, request.reply(ra=1, aa=0)
        mode, (_, records) = self.mode(question), self.now()
        if mode == "servfail":
            reply.header.rcode = RCODE.SERVFAIL
            return reply
        # Names are matched in any case (RFC 4343).
        name = str(question.qname).lower()
        for _ in range(8):
            alias = next((rr for rr in records if str(rr.rname).lower() == name and rr.rtype == QTYPE.CNAME), None)
            if alias is None or question.qtype == QTYPE.CNAME:
                break
            reply.add_answer(alias)
            name = str(alias.rdata).lower()
        of_name = [rr for rr in records if str(rr.rname).lower() == name]
        found = [] if mode == "empty" else [rr for rr in of_name if rr.rtype == question.qtype]
        reply.add_answer(*found)
        if not found:
            reply.add_auth(*RR.fromZone(TTL_OF_NO))
            reply.header.rcode = RCODE.NOERROR if of_name or mode == "empty" else RCODE.NXDOMAIN
        return reply


class Handler(DNSHandler):
    # What fits a packet anywhere (dnsflagday.net/2020); the rest comes over TCP.
    udplen = 1232

    def get_reply(self, data):
        question = DNSRecord.parse(data).q
        # For the test: over what, for what, when (in seconds, since some moment).
        line = f"asked {self.protocol} {QTYPE[question.qtype]} {str(question.qname).lower()} {time.monotonic()}\n"
        # In one piece: there is a thread for every question.
        os.write(1, line.encode())
        mode = self.server.resolver.mode(question)
        if mode == "silent":
            raise DNSError("silent")
        if mode == "garbage":
            # Its id, flags of an answer, and numbers of records that are not there.
            return data[:2] + b"\x84\x00\x00\x01\xff\xff\xff\xff\xff\xff" + b"\xc0\x0c" * 20
        reply = super().get_reply(data)
        if DNSRecord.parse(reply).header.tc:
            # dnslib leaves the question out, which no other server does.
            truncated = DNSRecord.parse(data).reply(ra=1, aa=0)
            truncated.header.tc = 1
            return truncated.pack()
        return reply


def main():
    zone, port = Zone(sys.argv[1]), int(sys.argv[2])
    quiet = DNSLogger(log="-request,-reply,-truncated,-error,-recv,-send,-data", prefix=False)
    options = {"address": "127.0.0.1", "logger": quiet, "handler": Handler}
    while True:
        try:
            udp = DNSServer(zone, port=port, **options)
            break
        except OSError:
            # A client's, for the moment.
            time.sleep(0.05)
    tcp = DNSServer(zone, port=port, tcp=True, **options)
    udp.start_thread()
    tcp.start_thread()
    print(port, flush=True)
    threading.Event().wait()


main()
