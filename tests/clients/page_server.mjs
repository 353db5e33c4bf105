// A web application: a page, a WebSocket echo (npm's ws), and a place for the page to tell how it went, which is printed.
// The page offers the subprotocol `echo`, or those that its own query names: `?protocols=a,b`.
// Prints its port first, then serves until it is killed. /echo sends a request's body back; /bytes?n=… sends so many.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const { WebSocketServer } = createRequire(process.argv.at(-1) + "/")("ws");
const page = `<!doctype html><title>page</title><script>
const tell = (text) => fetch("/told?" + encodeURIComponent(text), { method: "POST" });
const offered = (new URLSearchParams(location.search).get("protocols") ?? "echo").split(",");
const socket = new WebSocket((location.protocol === "https:" ? "wss://" : "ws://") + location.host + "/ws", offered);
const messages = ["grüß Gott", "x".repeat(100000), ""];
let next = 0;
const send = () => (next < messages.length ? socket.send(messages[next]) : socket.close(4001, "done"));
socket.onopen = send;
socket.onerror = () => tell("error");
socket.onmessage = ({ data }) => (data === messages[next++] ? send() : tell("a message came back changed"));
socket.onclose = ({ code }) => {
  const how = performance.getEntriesByType("navigation")[0].nextHopProtocol;
  tell(code === 4001 && next === messages.length ? "done over " + how + " " + socket.protocol : "closed with " + code);
};
</script>`;

const http = createServer((request, response) => {
  const url = new URL(request.url, "http://page");
  if (url.pathname === "/echo") {
    request.pipe(response);
  } else if (url.pathname === "/bytes") {
    response.end(Buffer.alloc(Number(url.searchParams.get("n")), "0123456789"));
  } else if (url.pathname === "/told") {
    console.log("told: " + decodeURIComponent(url.search.slice(1)));
    response.end();
  } else {
    response.setHeader("content-type", "text/html; charset=utf-8");
    response.end(page);
  }
});
const server = new WebSocketServer({ server: http });
server.on("connection", (socket) => {
  socket.on("message", (data, binary) => socket.send(data, { binary }));
  socket.on("error", console.error);
});
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
