// A web application whose pages tell nobody where they are (`Referrer-Policy: no-referrer`), with a form of its own.
// `/` sends the form by itself; `/sandboxed` has another page of nobody's do that; `/read?url` asks that URL by `fetch` and
// tells what it could read. What arrives is printed. Prints its port first, then serves until it is killed.
import { createServer } from "node:http";

const form = (to) => `<!doctype html><form method="post" action="${to}"><input name="a" value="b"></form>
<script>document.forms[0].submit()</script>`;

const http = createServer((request, response) => {
  const url = new URL(request.url, "http://page");
  response.setHeader("referrer-policy", "no-referrer");
  response.setHeader("content-type", "text/html; charset=utf-8");
  if (request.method === "POST") {
    const { origin, "sec-fetch-site": site } = request.headers;
    console.log(`${decodeURIComponent(url.pathname + url.search)}: origin ${origin}, site ${site}`);
    response.end("received");
  } else if (url.pathname === "/sandboxed") {
    const inside = form("http://" + request.headers.host + "/from-sandbox").replaceAll('"', "&quot;");
    response.end(`<!doctype html><iframe sandbox="allow-forms allow-scripts" srcdoc="${inside}"></iframe>
<script>setTimeout(() => fetch("/waited", { method: "POST" }), 1500)</script>`);
  } else if (url.pathname === "/read") {
    response.end(`<!doctype html><script>
const tell = (text) => fetch("/told?" + encodeURIComponent(text), { method: "POST" });
fetch(decodeURIComponent(location.search.slice(1)), { method: "POST" })
  .then(async (answer) => tell(answer.status + " " + (await answer.text()).trim()), () => tell("failed"));
</script>`);
  } else {
    response.end(form("/from-form"));
  }
});
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
