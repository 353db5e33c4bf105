"""A service that decides who may enter, made with Python's own http.server. Prints its port, then serves until it is killed.

The cookie `session` says what it does: `good` enters as ada, `bad` is forbidden, `hang` is never answered, `broken` is a
500, and without one there is a login page.
"""

import http.server
import time
from http.cookies import SimpleCookie


class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        cookie = SimpleCookie(self.headers.get("cookie", "")).get("session")
        session = cookie.value if cookie else None
        if session == "hang":
            time.sleep(3600)
        status = {"good": 200, "bad": 403, "broken": 500}.get(session, 302)
        body = f"{self.headers['x-forwarded-method']} {self.headers['x-forwarded-uri']}".encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "text/plain")
        if status == 200:
            self.send_header("x-user", "ada")
        if status == 302:
            self.send_header("location", "https://login.test/")
            self.send_header("set-cookie", "back=1")
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
print(server.server_address[1], flush=True)
server.serve_forever()
