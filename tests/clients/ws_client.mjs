// A client made with npm's ws: speaks to the URL that it is given, and ends with 0 if all came back.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [url, certificate, modules] = process.argv.slice(2);
const WebSocket = createRequire(modules + "/")("ws");
const messages = ["grüß Gott", Buffer.from([0, 255]), "", Buffer.alloc(70_000, 1), "y".repeat(1 << 20)];
const socket = new WebSocket(url, ["echo"], { ca: readFileSync(certificate), perMessageDeflate: false });
const fail = (why) => {
  console.error(why);
  process.exit(1);
};
setTimeout(() => fail("no end within 50 s"), 50_000).unref();
let next = 0;
const send = () => (next < messages.length ? socket.send(messages[next]) : socket.ping("p"));
socket.on("open", () => (socket.protocol === "echo" ? send() : fail(`subprotocol ${socket.protocol}`)));
socket.on("error", fail);
socket.on("message", (data, binary) => {
  const message = messages[next++];
  if (binary !== Buffer.isBuffer(message) || !Buffer.from(message).equals(data)) fail("a message came back changed");
  send();
});
socket.on("pong", (data) => (data.toString() === "p" ? socket.close(4001, "done") : fail("a wrong pong")));
socket.on("close", (code) => (code === 4001 ? process.exit(0) : fail(`closed with ${code}`)));
