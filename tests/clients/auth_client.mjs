// A client made with npm's ws that offers subprotocols: URL and the subprotocols, with commas between them. As a browser
// does, ws fails if the server chooses none of them. Prints the one that was chosen behind `entered`.
import { createRequire } from "node:module";

const { WebSocket } = createRequire(process.argv.at(-1) + "/")("ws");
const [url, offered] = process.argv.slice(2);
const socket = new WebSocket(url, offered.split(","), { perMessageDeflate: false });
socket.on("open", () => socket.send("hello"));
socket.on("message", (data) => {
  console.log("entered " + socket.protocol + " " + data);
  socket.close();
});
socket.on("error", (error) => {
  console.log("failed " + error.message);
  process.exitCode = 1;
});
