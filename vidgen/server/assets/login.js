// A token for a cookie; the token itself is kept nowhere.

import { post } from "./api.js";
import { h, put, show, swap } from "./dom.js";

// `why` is what led here, if somebody was in already.
export function mount(root, enter, why = null) {
  const token = h("input", { id: "token", type: "password", name: "token", autocomplete: "current-password", required: true, spellcheck: "false", aria: { describedby: "token-hint" } });
  const error = h("p.error", { role: "alert", hidden: true });
  const go = h("button.button.primary", { type: "submit" }, "Log in");
  const form = h(
    "form.panel",
    {
      onsubmit: async (event) => {
        event.preventDefault();
        go.disabled = true;
        show(error, false);
        try {
          await post("/api/login", { token: token.value.trim() });
          await enter();
        } catch (problem) {
          put(error, problem.status === 401 ? "This token opens nothing here." : problem.message);
          show(error, true);
          token.select();
        } finally {
          go.disabled = false;
        }
      },
    },
    h("div.brand", null, h("img", { src: "/assets/icon.svg", alt: "", width: 20, height: 20 }), h("span", null, "vidgen")),
    h("h1", null, "Log in"),
    why && h("p.muted", { role: "status" }, why),
    h("input", { name: "username", autocomplete: "username", value: "token", hidden: true }), // for password managers
    h("div.field", null, h("label", { for: "token" }, "Token"), token, h("p.hint", { id: "token-hint" }, "ADMIN_TOKEN of this server, or one of its named tokens.")),
    error,
    go,
  );
  swap(root, h("div.login", null, form));
  token.focus();
}
