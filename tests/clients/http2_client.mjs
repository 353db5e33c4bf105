// Node's own HTTP/2 client, with npm's ws for the frames: WebSockets over extended CONNECT (RFC 8441), several on one
// connection, and plain requests between them if a path is given. Ends with 0 if all came back.
import { readFileSync } from "node:fs";
import { connect } from "node:http2";
import { createRequire } from "node:module";

const [url, certificate, count, path, modules] = process.argv.slice(2);
const WebSocket = createRequire(modules + "/")("ws");
const fail = (why) => {
  console.error(why);
  process.exit(1);
};
setTimeout(() => fail("no end within 50 s"), 50_000).unref();
const messages = ["grüß Gott", Buffer.from([0, 255]), "", Buffer.alloc(70_000, 1), "y".repeat(1 << 20)];

const session = connect(url, { ca: readFileSync(certificate) });
session.on("error", fail);
await new Promise((done) => session.once("remoteSettings", (settings) => {
  if (!settings.enableConnectProtocol) fail("the server does not offer extended CONNECT");
  done();
}));

const websocket = () =>
  new Promise((resolve) => {
    const stream = session.request({
      ":method": "CONNECT",
      ":protocol": "websocket",
      ":path": "/",
      "sec-websocket-version": "13",
      "sec-websocket-protocol": "echo",
    }, { endStream: false });
    stream.on("response", (headers) => {
      if (headers[":status"] !== 200) return fail(`status ${headers[":status"]}`);
      if (headers["sec-websocket-protocol"] !== "echo") return fail("no subprotocol");
      const socket = new WebSocket(null, undefined, { autoPong: true });
      stream.setNoDelay = () => {};
      socket._isServer = false;
      socket.setSocket(stream, Buffer.alloc(0), { maxPayload: 1 << 24, allowSynchronousEvents: true });
      let next = 0;
      const send = () => (next < messages.length ? socket.send(messages[next]) : socket.close(4001, "done"));
      socket.on("message", (data, binary) => {
        const message = messages[next++];
        if (binary !== Buffer.isBuffer(message) || !Buffer.from(message).equals(data)) fail("a message came back changed");
        send();
      });
      socket.on("error", fail);
      socket.on("close", (code) => (code === 4001 ? resolve() : fail(`closed with ${code}`)));
      send();
    });
    stream.on("error", fail);
  });

const get = () =>
  new Promise((resolve) => {
    const stream = session.request({ ":path": path });
    let body = "";
    stream.setEncoding("utf8");
    stream.on("response", (headers) => headers[":status"] < 500 || fail(`status ${headers[":status"]}`));
    stream.on("data", (data) => (body += data));
    stream.on("end", () => resolve(body));
    stream.on("error", fail);
  });

await Promise.all(Array.from({ length: Number(count) }, (_, at) => (path && at % 2 ? get() : websocket())));
session.close(() => process.exit(0));
