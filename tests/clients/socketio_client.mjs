// Socket.IO clients with their defaults: they poll first, and then upgrade. Each checks that it stays with one server, and
// that every message comes back. Prints the servers' ports, one per client, and ends with 0 if all is well.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [url, certificate, count, transports, modules] = process.argv.slice(2);
const { io } = createRequire(modules + "/")("socket.io-client");
const fail = (why) => {
  console.error(why);
  process.exit(1);
};
setTimeout(() => fail("no end within 50 s"), 50_000).unref();

const messages = ["grüß Gott", { a: [1, 2, { b: null }] }, Buffer.from([0, 255, 128]), "x".repeat(200_000), ""];
const same = (one, other) =>
  Buffer.isBuffer(one) ? one.equals(Buffer.from(other)) : JSON.stringify(one) === JSON.stringify(other);

const client = () =>
  new Promise((resolve) => {
    const socket = io(url, {
      withCredentials: true,
      reconnection: false,
      forceNew: true,
      ca: readFileSync(certificate),
      transports: transports.split(","),
    });
    const seen = [];
    socket.io.engine.on("upgrade", (transport) => seen.push(transport.name));
    socket.on("connect_error", (error) => fail(`cannot connect: ${error.message} ${error.description ?? ""}`));
    socket.on("disconnect", (reason) => reason === "io client disconnect" || fail(`disconnected: ${reason}`));
    socket.on("connect", async () => {
      const [first] = await new Promise((answer) => socket.emit("who", (...all) => answer(all)));
      for (const message of messages) {
        const back = await socket.timeout(20_000).emitWithAck("echo", message);
        if (!same(message, back)) fail(`came back changed: ${JSON.stringify(back).slice(0, 80)}`);
      }
      const last = transports.split(",").at(-1);
      while (socket.io.engine.transport.name !== last) await new Promise((next) => setTimeout(next, 5));
      // A while on the last transport: the server must have seen the upgrade too.
      let server, transport;
      do {
        [server, transport] = await new Promise((answer) => socket.emit("who", (...all) => answer(all)));
      } while (transport !== last);
      if (server !== first) fail(`from server ${first} to ${server}`);
      for (const message of messages) {
        const back = await socket.timeout(20_000).emitWithAck("echo", message);
        if (!same(message, back)) fail(`came back changed: ${JSON.stringify(back).slice(0, 80)}`);
      }
      socket.disconnect();
      resolve(server);
    });
  });

const servers = await Promise.all(Array.from({ length: Number(count) }, client));
console.log(servers.join(" "));
process.exit(0);
