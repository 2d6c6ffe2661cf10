// A one-time link: its secret stands in the fragment, which no server and no log has seen, and is used up by a POST.

import { $, el, fill, request, trouble } from "./hitl.js";

const secret = location.hash.slice(1);
history.replaceState(null, "", "/link"); // the secret leaves the address bar and the history

try {
  await request("POST", "/session", { link: secret });
  location.replace("/");
} catch (error) {
  $("#doing").hidden = true;
  fill($("#wrong"), trouble(error), el("p", {}, el("a", { href: "/sign-in" }, "Sign in with name and password")));
}
