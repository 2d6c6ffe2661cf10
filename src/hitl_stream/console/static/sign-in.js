// Signing in with name and password, and going back to where somebody came from.

import { $, fill, request, trouble } from "./hitl.js";

/** Only a path of this console: an address elsewhere would be given to somebody who has just signed in. */
function next() {
  const wanted = new URLSearchParams(location.search).get("next") ?? "/";
  const url = new URL(wanted, location.origin);
  return url.origin === location.origin && wanted.startsWith("/") ? url.pathname + url.search : "/";
}

$("#form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = $("button", event.target);
  button.disabled = true;
  try {
    await request("POST", "/session", { name: $("#name").value, password: $("#password").value });
    location.replace(next());
  } catch (error) {
    fill($("#wrong"), trouble(error));
    $("#password").select();
    button.disabled = false;
  }
});
