"""A web server of Python's own, which answers in many small pieces: prints its port, then serves until it is killed."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = b"0123456789" * 100


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(20 * len(PIECE)))
        self.end_headers()
        for _ in range(20):
            self.wfile.write(PIECE)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
