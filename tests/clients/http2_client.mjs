// Node's own HTTP/2 client: WebSockets over extended CONNECT (RFC 8441), several on one connection, and plain requests
// between them if a path is given. Ends with 0 if all came back. (npm's ws is no help here: on a stream of HTTP/2 that is
// ended right behind a Close frame it misses that frame.)
import { readFileSync } from "node:fs";
import { connect } from "node:http2";

const [url, certificate, count, path] = process.argv.slice(2);
const fail = (why) => {
  console.error(why);
  process.exit(1);
};
setTimeout(() => fail("no end within 50 s"), 50_000).unref();
const messages = ["grüß Gott", "", "x".repeat(70_000), "y".repeat(1 << 20)].map((text) => Buffer.from(text));

/** A masked frame (RFC 6455 section 5.2), with a key of zeros. */
const frame = (opcode, payload) => {
  const [size, mark] = payload.length < 126 ? [0, payload.length] : payload.length < 65_536 ? [2, 126] : [8, 127];
  const head = Buffer.alloc(2 + size + 4);
  head[0] = 0x80 | opcode;
  head[1] = 0x80 | mark;
  if (size === 2) head.writeUInt16BE(payload.length, 2);
  if (size === 8) head.writeBigUInt64BE(BigInt(payload.length), 2);
  return Buffer.concat([head, payload]);
};

/** Takes the first frame off, if it is whole: its opcode, its payload, and the rest. */
const parse = (bytes) => {
  if (bytes.length < 2) return;
  const short = bytes[1] & 0x7f;
  const head = short < 126 ? 2 : short === 126 ? 4 : 10;
  if (bytes.length < head) return;
  const length = short < 126 ? short : short === 126 ? bytes.readUInt16BE(2) : Number(bytes.readBigUInt64BE(2));
  if (bytes.length < head + length) return;
  return [bytes[0] & 0xf, bytes.subarray(head, head + length), bytes.subarray(head + length)];
};

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
    let next = 0;
    let closed = false;
    let bytes = Buffer.alloc(0);
    const send = () => {
      if (next < messages.length) return stream.write(frame(1, messages[next]));
      stream.write(frame(8, Buffer.from([0x0f, 0xa1])));
    };
    stream.on("response", (headers) => {
      if (headers[":status"] !== 200) return fail(`status ${headers[":status"]}`);
      if (headers["sec-websocket-protocol"] !== "echo") return fail("no subprotocol");
      send();
    });
    stream.on("data", (data) => {
      bytes = Buffer.concat([bytes, data]);
      for (let parsed = parse(bytes); parsed; parsed = parse(bytes)) {
        const [opcode, payload, rest] = parsed;
        bytes = rest;
        if (opcode === 8) {
          if (payload.readUInt16BE(0) !== 4001) fail(`closed with ${payload.readUInt16BE(0)}`);
          closed = true;
          stream.end();
        } else {
          if (!payload.equals(messages[next++])) fail("a message came back changed");
          send();
        }
      }
    });
    stream.on("end", () => (closed && bytes.length === 0 ? resolve() : fail("an end without a Close")));
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
