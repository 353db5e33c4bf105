// An echo server made with npm's ws: prints its port, then serves until it is killed.
// With the files of a certificate and its key it speaks TLS; with a third, it demands that certificate of its clients.
import { readFileSync } from "node:fs";
import { createServer as plain } from "node:http";
import { createServer as secure } from "node:https";
import { createRequire } from "node:module";

const [certificate, key, clients] = process.argv.slice(2, -1);
const { WebSocketServer } = createRequire(process.argv.at(-1) + "/")("ws");
const demanded = clients && { ca: readFileSync(clients), requestCert: true, rejectUnauthorized: true };
const tls = certificate && { cert: readFileSync(certificate), key: readFileSync(key), ...demanded };
const http = tls ? secure(tls) : plain();
const server = new WebSocketServer({ server: http });
server.on("connection", (socket) => {
  socket.on("message", (data, binary) => socket.send(data, { binary }));
  socket.on("error", console.error);
});
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
