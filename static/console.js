/* The console's own script: everything works without it. It keeps live fragments quiet while the
   page is hidden or being used, copies text, focuses the search box and tells how old figures are. */
(() => {
  "use strict";

  const SECOND = 1000;

  const isInUse = (element) => {
    const active = document.activeElement;
    const selection = document.getSelection();
    return (
      (active !== null && active !== document.body && element.contains(active)) ||
      (selection !== null && !selection.isCollapsed && element.contains(selection.anchorNode)) ||
      element.querySelector("input:checked, details[open]") !== null
    );
  };

  // A poll is dropped, not delayed: the next one comes in three seconds.
  document.addEventListener("htmx:beforeRequest", (event) => {
    const element = event.detail.elt;
    if (element.hasAttribute("data-live") && (document.hidden || isInUse(element))) {
      event.preventDefault();
    }
  });

  // A login that ended must not be drawn into a fragment.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const address = event.detail.xhr.responseURL;
    if (address && new URL(address).pathname === "/login/") {
      event.preventDefault();
      window.location.reload();
    }
  });

  let updated = Date.now();
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.elt.hasAttribute("data-live")) {
      updated = Date.now();
    }
  });
  const tellAge = () => {
    const seconds = Math.round((Date.now() - updated) / SECOND);
    for (const place of document.querySelectorAll("[data-updated]")) {
      place.textContent = seconds < 2 ? "updated just now" : `updated ${seconds} s ago`;
      place.toggleAttribute("data-stale", seconds > 15);
    }
  };
  if (document.querySelector("[data-updated]")) {
    window.setInterval(tellAge, SECOND);
  }

  const copyWithoutClipboard = (text) => {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "sr-only";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done ? Promise.resolve() : Promise.reject(new Error("copy was refused"));
  };
  const copy = (text) =>
    navigator.clipboard ? navigator.clipboard.writeText(text) : copyWithoutClipboard(text);
  const say = (button, word) => {
    button.dataset.said = word;
    document.getElementById("announcer").textContent = word;
    window.setTimeout(() => delete button.dataset.said, 1500);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) {
      event.preventDefault();
      copy(button.dataset.copy).then(
        () => say(button, "Copied"),
        () => say(button, "Not copied"),
      );
    }
  });

  // Row click opens what the row's first link opens; links, buttons and selections keep theirs.
  document.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-row]");
    if (!row || event.target.closest("a, button, input, label, summary, select")) {
      return;
    }
    if (document.getSelection().isCollapsed) {
      row.querySelector("a[href]").click();
    }
  });

  document.addEventListener("change", (event) => {
    const box = event.target;
    if (box.matches("[data-check-all]")) {
      for (const one of box.form.querySelectorAll("input[name=job]")) {
        one.checked = box.checked;
      }
    }
    if (box.matches("[data-submit-on-change]")) {
      box.form.requestSubmit();
    }
  });

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      const box = document.getElementById("search");
      if (box) {
        event.preventDefault();
        box.focus();
        box.select();
      }
    }
    if (event.key === "Escape") {
      for (const menu of document.querySelectorAll("details[data-menu][open]")) {
        menu.removeAttribute("open");
        menu.querySelector("summary").focus();
      }
    }
  });

  document.documentElement.classList.add("has-script");
})();
