// A Socket.IO server, as its documentation begins one: prints its port, then serves until it is killed. "who" is answered
// with its port and the transport in use; "echo" with what came.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const { Server } = createRequire(process.argv.at(-1) + "/")("socket.io");
const http = createServer();
const io = new Server(http);
io.on("connection", (socket) => {
  socket.on("who", (answer) => answer(http.address().port, socket.conn.transport.name));
  socket.on("echo", (message, answer) => answer(message));
});
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
