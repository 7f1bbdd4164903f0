(() => {
  "use strict";
  const root = document.documentElement;
  const all = (selector) => Array.from(document.querySelectorAll(selector));

  // Storage throws on some file:// pages; the theme then lasts as long as the page.
  const remembered = () => {
    try { return localStorage.getItem("curvescope-theme"); } catch { return null; }
  };
  const remember = (theme) => {
    try { localStorage.setItem("curvescope-theme", theme); } catch { /* not kept */ }
  };
  const isDark = () =>
    root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
  const themeButton = document.getElementById("theme");
  const label = () => { themeButton.textContent = isDark() ? "Light" : "Dark"; };
  const stored = remembered();
  if (stored === "dark" || stored === "light") root.dataset.theme = stored;
  label();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  themeButton.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember(root.dataset.theme);
    label();
  });

  const status = document.getElementById("status");
  let timer = 0;
  const say = (text) => {
    status.textContent = text;
    status.classList.add("shown");
    clearTimeout(timer);
    timer = setTimeout(() => status.classList.remove("shown"), 2500);
  };

  // The clipboard interface needs a secure context; a selected text area does not.
  const copySelected = (source) => {
    source.hidden = false;
    source.select();
    let done = false;
    try { done = document.execCommand("copy"); } catch { done = false; }
    source.hidden = true;
    return done;
  };
  const copy = async (source) => {
    if (navigator.clipboard && window.isSecureContext) {
      try {
        await navigator.clipboard.writeText(source.value);
        return true;
      } catch { /* refused: the other way may still be open */ }
    }
    return copySelected(source);
  };
  for (const button of all("button.copy")) {
    button.addEventListener("click", async () => {
      const source = button.closest(".table, .command").querySelector(".source");
      say((await copy(source)) ? "Copied" : "The browser refused to copy");
      button.focus();
    });
  }

  // A saved figure stands alone: its colours must not refer to this page's variables.
  const saveSvg = (button) => {
    const svg = button.closest("section").querySelector(".wide svg");
    const text = new XMLSerializer().serializeToString(svg)
      .replace(/var\(--figure-[a-z]+, *(#[0-9a-f]{6})\)/g, "$1");
    const url = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
    const link = document.createElement("a");
    link.href = url;
    link.download = button.dataset.name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    say("Figure saved");
  };
  for (const button of all("button.save-svg")) {
    button.addEventListener("click", () => saveSvg(button));
  }
})();
