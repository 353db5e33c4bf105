// An echo server made with npm's ws: prints its port, then serves until it is killed.
import { createRequire } from "node:module";

const [modules] = process.argv.slice(2);
const { WebSocketServer } = createRequire(modules + "/")("ws");
const server = new WebSocketServer({ host: "127.0.0.1", port: 0 }, () => console.log(server.address().port));
server.on("connection", (socket) => {
  socket.on("message", (data, binary) => socket.send(data, { binary }));
  socket.on("error", console.error);
});
