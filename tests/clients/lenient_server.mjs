// A backend that reads paths as leniently as several kinds of servers do, all at once: it answers with the names of those
// that would serve what is at /admin, or with "public". Express (npm) is real; the others do what such servers do.
// Prints its port first, then serves until it is killed.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { posix } from "node:path";

const express = createRequire(process.argv.at(-1) + "/")("express");

const decoded = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return unescape(text);
  }
};
const below = (path) => path === "/admin" || path.startsWith("/admin/");

// Tomcat: path parameters are cut off every segment, then the path is decoded and normalized.
const tomcat = (path) => below(posix.normalize(decoded(path.split("/").map((segment) => segment.split(";")[0]).join("/"))));
// A server on Windows that decodes once more than it should: no case, `\` is `/`, no dots or spaces at the end of names.
const windows = (path) => {
  const names = decoded(decoded(path)).toLowerCase().replaceAll("\\", "/").split("/");
  return below(posix.normalize(names.map((name) => (/^\.+$/.test(name) ? name : name.replace(/[. ]+$/, ""))).join("/")));
};
// One that takes overlong UTF-8 for what it stands for (CVE-2000-0884).
const overlong = (path) => {
  const pairs = path.replace(/%c([01])%([89ab][0-9a-f])/gi, (_, high, low) =>
    String.fromCharCode((Number(high) << 6) | (parseInt(low, 16) & 0x3f)));
  return below(posix.normalize(decoded(pairs)));
};
// A framework behind IIS: the path is in a field (CVE-2018-14773), which CGI spells with `_`.
const fields = (headers) =>
  Object.entries(headers).some(([name, value]) => /^x[-_](original|rewrite)[-_]url$/.test(name) && below(value));

const app = express();
app.use("/admin", (request, response) => response.end("express"));
app.use((request, response) => response.end(""));

const inject = (request) => new Promise((resolve) => {
  const response = { end: resolve, setHeader() {}, getHeader() {}, removeHeader() {}, on() {}, once() {}, emit() {} };
  app.handle(request, response, () => resolve(""));
});

const http = createServer(async (request, response) => {
  const url = request.url, path = url.split("?")[0];
  const found = [await inject(request)];
  for (const [name, serves] of [["tomcat", tomcat], ["windows", windows], ["overlong", overlong]]) {
    if (serves(path)) found.push(name);
  }
  if (fields(request.headers)) found.push("fields");
  if (request.headers.proxy !== undefined) found.push("proxy");
  response.end(found.filter((name) => name !== "").join(" ") || "public");
});
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
