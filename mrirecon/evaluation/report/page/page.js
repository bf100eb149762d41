// Control the page: create viewers when they scroll into view, show the help, and move between cases.

const viewers = new Map();

function openHelp() {
  const help = document.getElementById("help");
  if (!help.open) help.showModal();
}

function start(root) {
  if (viewers.has(root)) return viewers.get(root);
  const data = JSON.parse(root.parentElement.querySelector("script.pictures").textContent);
  viewers.set(root, new Viewer(root, data));
  return viewers.get(root);
}

function go(step) {
  const cases = [...document.querySelectorAll(".case")];
  const here = document.activeElement ? document.activeElement.closest(".case") : null;
  const at = here ? cases.indexOf(here) + step : 0;
  const target = cases[Math.max(0, Math.min(cases.length - 1, at))];
  if (!target) return;
  target.scrollIntoView({ block: "start" });
  (target.querySelector(".viewer") || target).focus({ preventScroll: true });
}

function main() {
  for (const button of document.querySelectorAll(".help-button")) {
    button.hidden = false;
    button.addEventListener("click", openHelp);
  }
  for (const button of document.querySelectorAll(".see")) {
    button.addEventListener("click", () => {
      const root = button.closest(".case").querySelector(".viewer");
      start(root).show(Number(button.dataset.slice));
      root.scrollIntoView({ block: "start" });
      root.focus({ preventScroll: true });
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    const action = { "?": openHelp, h: openHelp, n: () => go(1), p: () => go(-1) }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  const roots = [...document.querySelectorAll(".viewer")];
  if (typeof DecompressionStream === "undefined") {
    const warning = document.getElementById("too-old");
    warning.textContent = "This browser cannot decode the pictures, which need Chrome or Edge 103, Firefox 113 or Safari 16.4, or newer. Scores and settings are shown below.";
    warning.hidden = false;
    for (const root of roots) root.hidden = true;
    return;
  }
  const seen = new IntersectionObserver(
    (entries) => { for (const entry of entries) if (entry.isIntersecting) start(entry.target); },
    { rootMargin: "600px" },
  );
  for (const root of roots) seen.observe(root);
  // A printed page needs all pictures, so the others are decoded when the browser is idle.
  const later = window.requestIdleCallback || ((work) => setTimeout(work, 200));
  const next = () => {
    const root = roots.find((one) => !viewers.has(one));
    if (!root) return;
    start(root);
    later(next);
  };
  later(next);
}

main();
